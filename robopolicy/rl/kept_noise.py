"""What noise does to a policy's success: ``python -m robopolicy.rl.kept_noise <checkpoint> [<file.json>]``.

Fresh noise errs now this way, now that, and a policy makes up for it. The noise that an actor chooses is a
function of the state: it errs the same way for many steps. So success is measured with one noise kept for a
whole episode. Where it falls with the bound, DSRL will fall below its base before it rises: choose a smaller
``method.bound``.

How much there is to gain is told by draws: the same episodes again with other fresh noise. What no draw of
some turns into a success, a choice of noise will hardly turn into one either.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from robopolicy.errors import ConfigError
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.evaluation.machine import print_or_write, stamp
from robopolicy.evaluation.statistics import wilson
from robopolicy.learning.checkpoint import load
from robopolicy.policies.policy import Policy
from robopolicy.rl.authority import truncated_normal
from robopolicy.rollout import LaneView, PolicyActor
from robopolicy.seeding import derive
from robopolicy.vector import LaneVectorEnv

__all__ = ["BOUNDS", "DRAWS", "EPISODES", "KeptNoise", "kept_noise", "main"]

BOUNDS = (0.0, 0.5, 1.0, 1.5)
DRAWS = 8
EPISODES = 50


class KeptNoise(PolicyActor):
    """Draws a lane's noise when its episode begins, within +-bound, and keeps it."""

    def __init__(self, policy: Policy, bound: float) -> None:
        policy.require("noise")
        super().__init__(policy)
        self.bound = bound
        self._noise = torch.zeros(0)

    def act(self, view: LaneView) -> np.ndarray:
        """`[B, Ta, Da]`."""
        policy, lanes = self.policy, len(view.seeds)
        if len(self._noise) != lanes:
            self._noise = torch.zeros((lanes, *policy.noise_shape), device=policy.device)
        for lane in np.flatnonzero(view.time == 0) if self.bound else ():
            generator = torch.Generator(policy.device).manual_seed(derive(int(view.seeds[lane]), "kept"))
            shape = tuple(policy.noise_shape)
            self._noise[lane] = truncated_normal(shape, self.bound, generator, policy.device)
        seen = {key: view.observation[key] for key in policy.spec.observations}
        actions = policy.sample(seen, noise=self._noise[:, None]).actions[:, 0]
        start = self.obs_horizon - 1
        return np.asarray(actions[:, start : start + self.action_horizon], np.float32)


def kept_noise(checkpoint: str) -> dict[str, Any]:
    """Success on selection episodes with fresh noise, with noise kept within each bound, and with the best of
    some draws of fresh noise; JSON-ready.
    """
    policy = load(checkpoint)
    task = policy.provenance.task
    if task is None:
        raise ConfigError(f"{checkpoint} was trained without a task to try it on.")
    draws = ["fresh", *(f"draw {number}" for number in range(1, DRAWS))]
    actors: dict[str, PolicyActor] = {
        name: PolicyActor(policy, repetition=number) for number, name in enumerate(draws)
    }
    actors |= {f"{bound:g}": KeptNoise(policy, bound) for bound in BOUNDS}
    envs = LaneVectorEnv(task, 10, workers=0, chunk=policy.action_horizon)
    try:
        measured = {
            name: evaluate(actor, task, episodes=EPISODES, block="select", envs=envs)
            for name, actor in actors.items()
        }
    finally:
        envs.close()
    # Of each episode, how many draws succeeded.
    counts = np.sum([[row.success for row in measured[name].rows] for name in draws], axis=0)
    success = {name: asdict(found.success) for name, found in measured.items() if name not in draws[1:]}
    success[f"best of {DRAWS} draws"] = asdict(wilson(int((counts > 0).sum()), EPISODES))
    success[f"worst of {DRAWS} draws"] = asdict(wilson(int((counts == DRAWS).sum()), EPISODES))
    return {"task": task.name, "episodes": EPISODES, "success": success, "draws": counts.tolist(), **stamp()}


def main(arguments: list[str]) -> None:
    """Measure and print, or write to a file."""
    print_or_write("robopolicy.rl.kept_noise", kept_noise, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
