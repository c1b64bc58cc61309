"""From nothing to an evaluated policy: demonstrations, training, evaluation, video and a report.

    python3 scripts/quickstart.py              # a Panda arm learns to lift a cube
    python3 scripts/quickstart.py --task can   # or another task

Needs only Python 3.11 or 3.12: the first run sets up .venv. A run that was interrupted goes on where it stopped.
"""

import _setup

_setup.ensure()

import argparse
import shutil
import time
from pathlib import Path

DEMONSTRATIONS, TRAINING_STEPS, EPISODES, LANES = 200, 4000, 100, 10


def main() -> None:
    arguments = _parse()
    can_render = _setup.ensure_rendering()
    from robopolicy.compose import compose
    from robopolicy.data.store import EpisodeStore
    from robopolicy.evaluation.collect import collect
    from robopolicy.evaluation.evaluate import evaluate
    from robopolicy.evaluation.report import write_report
    from robopolicy.evaluation.video import record_episodes
    from robopolicy.learning.train import TrainConfig, prepare
    from robopolicy.registry import parse
    from robopolicy.rollout import PolicyActor
    from robopolicy.task import Task

    out = Path(arguments.out)
    if arguments.fresh:
        shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    config = compose("train", [f"task={arguments.task}", *SETTINGS, f"data={out}/{arguments.task}.zarr", f"out={out}/run"])
    settings = parse(TrainConfig, config, "train")
    task = Task.from_dict(config["task"])
    print(f"1/4  Demonstrations: {task.instruction or task.name}, {DEMONSTRATIONS} scripted episodes")
    print("     " + collect(task, settings.store_path, episodes=DEMONSTRATIONS, lanes=LANES).summary())
