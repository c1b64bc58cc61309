"""From nothing to an evaluated policy: demonstrations, training, evaluation, video and a report.

    python3 scripts/quickstart.py               a Panda arm learns to lift a cube
    python3 scripts/quickstart.py task=can      another task: any of configs/task with a scripted expert

Needs Python 3.11 or 3.12 and nothing else: the first run sets up .venv. An interrupted run goes on where it
stopped; delete outputs/quickstart to start over.
"""

import _setup

_setup.ensure()

import os
import time
from pathlib import Path
from typing import Any

from robopolicy.cli import command

OUT = Path("outputs/quickstart")


@command(
    config="quickstart",
    purpose="Collect demonstrations, train a diffusion policy, evaluate it on unseen episodes, and report.",
    examples=["python3 scripts/quickstart.py", "python3 scripts/quickstart.py task=can trainer.steps=20000"],
)
def main(config: dict[str, Any]) -> None:
    """Run the four stages and say what came out."""
    import _rendering

    can_film = bool(_rendering.ensure())

    from robopolicy.evaluation.collect import collect
    from robopolicy.evaluation.during import SelectionCheck
    from robopolicy.evaluation.run import EvaluateConfig, run_evaluation
    from robopolicy.learning.train import TrainConfig, prepare
    from robopolicy.registry import parse
    from robopolicy.task import Task

    task = Task.from_dict(config["task"])
    demonstrations, episodes = config.pop("collect"), config.pop("episodes")
    out = OUT if task.name == "lift" else OUT.with_name(f"quickstart_{task.name}")
    paths = {"data": str(out / f"{task.name}.zarr"), "out": str(out / "run")}
    if os.getloadavg()[0] >= (os.cpu_count() or 1):
        print("\nOther programs keep this machine busy: training takes one thread.")
        config["trainer"]["threads"] = 1
    settings = parse(TrainConfig, config | paths, "quickstart")
    stages: dict[str, float] = {}

    start = time.monotonic()
    print(f"\n1/3  {demonstrations} demonstrations by a scripted expert: {task.instruction or task.name}")
    print("     " + collect(task, paths["data"], episodes=demonstrations).summary())
    stages["demonstrations"] = time.monotonic() - start

    start = time.monotonic()
    print(f"\n2/3  Training: {settings.trainer.steps} steps")
    trainer = prepare(settings, evaluate=SelectionCheck(settings))
    trainer.train()
    stages["training"] = time.monotonic() - start

    start = time.monotonic()
    print(f"\n3/3  Evaluation: {episodes} episodes on seeds that nothing was trained on")
    retry = [f"python scripts/{line}" for line in NEXT]
    measured = run_evaluation(
        EvaluateConfig(checkpoint=paths["out"], episodes=episodes, video=4 if can_film else 0, out=str(out)),
        title=f"Quickstart: {task.instruction or task.name}",
        stages=stages,
        commands=tuple(retry),
    ).evaluation
    assert measured is not None
    stages["evaluation and report"] = time.monotonic() - start

    print(f"\n{measured.summary()}")
    print(f"\nSuccess {measured.success}; {sum(stages.values()):.0f} s in all")
    print(f"Look at {out}/report.html" + (f" or {out}/episodes.mp4" if can_film else ""))
    print("Next:\n  source .venv/bin/activate\n  " + "\n  ".join(retry))


NEXT = (
    "evaluate.py checkpoint=outputs/quickstart/run episodes=200 offset=100",
    "collect.py task=can episodes=200",
    "train.py task=can policy=diffusion",
    "train.py data=outputs/quickstart/lift.zarr network=unet_small name=unet",
)

if __name__ == "__main__":
    main()
