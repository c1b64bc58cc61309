"""The outer loop: practise in imagination, record a few real episodes of what became of it, model again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from robopolicy.errors import ConfigError
from robopolicy.evaluation.collect import POLICY_OFFSET, collect
from robopolicy.learning.checkpoint import load
from robopolicy.rl.refine import RefineConfig
from robopolicy.rl.refine import prepare as prepare_refinement
from robopolicy.rollout import PolicyActor
from robopolicy.world.train import TrainWorldConfig
from robopolicy.world.train import prepare as prepare_world

__all__ = ["OFFSET", "OuterConfig", "improve"]

OFFSET = POLICY_OFFSET + 100_000
"""Collection seeds of these episodes: not those of the recordings that the first world model learned from."""


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """A budget of real episodes, spent in equal parts after every round but the last."""

    rounds: int = 2
    episodes: int = 40

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.episodes < self.rounds - 1:
            raise ConfigError(
                f"The outer loop needs rounds >= 1 and an episode for each but the last, got {self.rounds} "
                f"rounds and {self.episodes} episodes."
            )

    @property
    def each(self) -> int:
        """Real episodes after a round."""
        return self.episodes // max(1, self.rounds - 1)


def improve(
    config: OuterConfig,
    world: TrainWorldConfig,
    refine: RefineConfig,
    out: str | Path,
    *,
    progress: bool = True,
) -> Path:
    """Rounds of world model, refinement of the base in it, and real episodes of the refined policy.

    Every round refines the same base in a better world model: methods refine policies that were cloned.
    Called again it goes on where it stopped; the episodes of a round are in ``round-<k>/episodes.zarr``.

    Args:
        world: of the first round; later ones add the recorded episodes to its `data`.
        refine: its `env`, `world` and `out` are set here.

    Returns:
        The last round's refinement run.
    """
    data = list(world.data)
    run = Path(out)
    for number in range(config.rounds):
        home = Path(out) / f"round-{number}"
        settings = dataclasses.replace(
            world, data=tuple(data), weights=_weights(world, len(data)), out=str(home / "world")
        )
        prepare_world(settings, progress=progress).run()
        run = home / "refined"
        practised = dataclasses.replace(
            refine, env=refine.env or {"name": "imagined"}, world=str(home / "world"), out=str(run)
        )
        prepare_refinement(practised, progress=progress).run()
        if number + 1 == config.rounds:
            break
        policy = load(run / "best")
        task = policy.provenance.task
        assert task is not None
        collect(
            task, home / "episodes.zarr", episodes=config.each, offset=OFFSET + number * config.each,
            workers=refine.workers, progress=progress, actor=PolicyActor(policy), origin=str(run / "best"),
        )  # fmt: skip
        data.append(str(home / "episodes.zarr"))
    return run


def _weights(world: TrainWorldConfig, stores: int) -> tuple[int, ...]:
    """The given ones; what was added counts once."""
    return (*world.weights, *(1,) * (stores - len(world.weights))) if world.weights else ()
