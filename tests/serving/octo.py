"""A model with Octo's interface, without JAX; and without torch, which the process that serves it has not."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robopolicy.serving.generalist import ServedGeneralist
from robopolicy.spec import TEXT, ActionSpec, ObservationSpec, Spec

STATISTICS = {"mean": [1.0, 2.0, 3.0], "std": [0.1, 0.2, 0.3], "mask": [True, True, False]}
SPEC = Spec(
    observations={
        "image": ObservationSpec(shape=(4, 4, 3), dtype="uint8", kind="image"),
        "proprio": ObservationSpec(shape=(2,)),
        "instruction": TEXT,
    },
    action=ActionSpec(names=("x", "y", "gripper"), low=(-1.0,) * 3, high=(1.0,) * 3),
    control_hz=5,
)
KEYS = {"image": "image_primary", "proprio": "proprio"}


class FakeOcto:
    """Actions in {-1, 0, 1} that depend on everything a real one's would."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def create_tasks(self, *, texts: Sequence[str]) -> dict[str, Any]:
        return {"language_instruction": list(texts)}

    def sample_actions(self, observations: Mapping[str, Any], tasks: Any, *, rng: Any) -> np.ndarray:
        assert set(observations) == {"image_primary", "proprio", "timestep_pad_mask"}
        assert observations["timestep_pad_mask"].all()
        batch, window = observations["timestep_pad_mask"].shape
        assert (observations["image_primary"].shape, window) == ((batch, 2, 4, 4, 3), 2)
        self.calls.append((batch, rng))
        length = np.array([len(text) for text in tasks["language_instruction"]])
        value = observations["proprio"].sum((1, 2)) + length
        drawn = np.random.default_rng(rng).integers(0, 3, (batch, 4, 3))
        return (drawn + value.astype(int)[:, None, None]) % 3 - 1.0


def make() -> ServedGeneralist:
    """What ``python -m robopolicy.serving tests.serving.octo:make`` serves."""
    assert "pytest" in sys.modules or "torch" not in sys.modules
    return ServedGeneralist(
        FakeOcto(), spec=SPEC, keys=KEYS, statistics=STATISTICS, rng=int, action_horizon=2, version="fake"
    )


def observation(batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (batch, 2, 4, 4, 3), np.uint8),
        "proprio": rng.integers(0, 9, (batch, 2, 2)).astype(np.float32),
        "instruction": ["pick" + "!" * i for i in range(batch)],
    }
