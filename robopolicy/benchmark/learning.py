"""Training, sampling and windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from robopolicy.benchmark.timing import interleave, summary
from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows
from robopolicy.device import bfloat16_suits, onednn_suits, products_of
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.learning.trainer import Trainer
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.policy import Policy, blank_observation
from robopolicy.registry import parse
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec

__all__ = [
    "ACTION_HORIZON",
    "BATCH",
    "BATCHES",
    "BY_MKL",
    "MOST",
    "OBS_HORIZON",
    "PRECISIONS",
    "PRED_HORIZON",
    "SAMPLERS",
    "SampleLoop",
    "families",
    "in_training",
    "lift_sizes",
    "prepared",
    "random_store",
    "sampling",
    "step_of",
    "trainer",
    "training",
    "windows",
]

BATCH = 256
OBS_HORIZON, PRED_HORIZON, ACTION_HORIZON = 2, 16, 8
PRECISIONS = ("float32", "bfloat16")
BY_MKL = "float32 by MKL"
SAMPLERS = (("ddim", 1), ("ddim", 3), ("dpm", 5), ("ddim", 10), ("ddim", 16), ("ddpm", 100))
BATCHES = (1, 10, 256)
MOST = 16 * 256
"""Network evaluations (steps times batch) beyond which a combination is left out: it would take minutes."""


def random_store(path: Path, spec: Spec, episodes: int = 50, steps: int = 200) -> EpisodeStore:
    """Random numbers of a spec's state observations and action."""
    store = EpisodeStore.create(path, spec)
    sizes = {key: o.shape for key, o in spec.observations.items()} | {"action": (spec.action.size,)}
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        arrays = {key: rng.uniform(-1, 1, (steps, *shape)) for key, shape in sizes.items()}
        store.append({key: value.astype(np.float32) for key, value in arrays.items()})
    return store


def lift_sizes() -> Spec:
    """What the Lift task's spec weighs: 19 observation and 7 action dimensions."""
    parts = (
        ActionPart(kind="position", size=3),
        ActionPart(kind="rotation", size=3, rotation="axis_angle"),
        ActionPart(kind="gripper", size=1),
    )
    names = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    sizes = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object-state": 10}
    return Spec(
        observations={key: ObservationSpec(shape=(size,)) for key, size in sizes.items()},
        action=ActionSpec(
            names=names, low=(-1.0,) * 7, high=(1.0,) * 7, representation="ee_delta", parts=parts
        ),
        control_hz=20.0,
    )


def trainer(network: str, precision: str, data: Path, directory: Path, device: str) -> Trainer:
    """A trainer of the default configuration."""
    form = precision.removesuffix(" by MKL")
    overrides = [f"network={network}", f"policy.precision={form}", f"data={data}", f"device={device}"]
    overrides += [
        f"out={directory}/{network}-{precision.replace(' ', '-')}",
        "validation=0",
        f"trainer.batch_size={BATCH}",
    ]
    return prepare(parse(TrainConfig, compose("train", overrides), "train"), progress=False)


def training(
    networks: Sequence[str], data: Path, directory: Path, *, device: str, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Samples a second of the training step, and how it divides; in bfloat16 where there is such a thing, and
    where products are oneDNN's (see `onednn_suits`), by MKL's beside them.
    """
    fast = PRECISIONS if bfloat16_suits(torch.device(device).type) else PRECISIONS[:1]
    precisions = [*fast, *([BY_MKL] if device == "cpu" and onednn_suits() else [])]
    trainers = {
        (network, precision): trainer(network, precision, data, directory, device)
        for network in networks
        for precision in precisions
    }
    steps = {" ".join(key): step_of(found, by_mkl=key[1] == BY_MKL) for key, found in trainers.items()}
    times = interleave(steps, seconds=seconds, rounds=rounds, calls=2)
    rows = []
    for (network, precision), found in trainers.items():
        step = summary(times[f"{network} {precision}"])
        spent = found._seconds
        rows.append(
            {
                "network": network,
                "precision": precision,
                "parameters": sum(p.numel() for p in found.parameters),
                "batch": BATCH,
                "samples_per_s": {"max": BATCH / step["min"] * 1e3, "median": BATCH / step["p50"] * 1e3},
                "step_ms": step,
                "share": {name: value / sum(spent.values()) for name, value in spent.items()},
            }
        )
    return rows


def sampling(
    networks: Sequence[str], data: Path, directory: Path, *, device: str, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Time of `Policy.sample` in float32, from NumPy to NumPy."""
    calls: dict[tuple[str, str, int, int], Callable[[], object]] = {}
    for network in networks:
        policy = trainer(network, "float32", data, directory / "sampling", device).policy
        assert isinstance(policy, DenoisingPolicy)
        for solver, steps in SAMPLERS:
            for batch in BATCHES:
                if steps * batch <= MOST:
                    calls[network, solver, steps, batch] = _sample(policy, solver, steps, batch)
    times = interleave(
        {" ".join(map(str, key)): call for key, call in calls.items()}, seconds=seconds, rounds=rounds
    )
    rows = []
    for key in calls:
        network, solver, steps, batch = key
        found = summary(times[" ".join(map(str, key))])
        row = {"network": network, "solver": solver, "steps": steps, "batch": batch}
        rows.append({**row, "ms": found, "chunks_per_s": batch / found["p50"] * 1e3})
    return rows


def families(
    policies: Sequence[str], data: Path, directory: Path, *, device: str, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Policies by name in their default configurations: a training step, and `sample` from NumPy to NumPy."""
    trainers = {name: in_training(name, data, directory, device) for name in policies}
    made = {name: _untrained(found) for name, found in trainers.items()}
    calls = {
        f"{name} {batch}": _calling(policy, batch)
        for name, policy in made.items()
        for batch in (BATCHES[0], BATCHES[-1])
    }
    times = interleave(calls, seconds=seconds, rounds=rounds)
    steps = interleave(
        {name: step_of(found) for name, found in trainers.items()}, seconds=seconds, rounds=rounds, calls=2
    )
    rows = []
    for key in calls:
        name, batch = key.split()
        found, policy = summary(times[key]), made[name]
        rows.append(
            {
                "policy": name,
                "parameters": sum(p.numel() for p in policy.parameters()),
                "calls": policy.sample(blank_observation(policy)).calls,
                "batch": int(batch),
                "ms": found,
                "chunks_per_s": int(batch) / found["p50"] * 1e3,
                "step_ms": summary(steps[name]),
            }
        )
    return rows


def prepared(name: str, data: Path, directory: Path, device: str, *words: str) -> Policy:
    """A policy by name in its default configuration, before training; a factorised one on such a base."""
    return _untrained(in_training(name, data, directory, device, *words))


def _untrained(trainer: Trainer) -> Policy:
    assert isinstance(trainer.average, Policy)
    return trainer.average


def in_training(name: str, data: Path, directory: Path, device: str, *words: str) -> Trainer:
    """A trainer of a policy by name in its default configuration, with batches of `BATCH`."""
    overrides = [f"policy={name}", f"data={data}", f"device={device}", "validation=0"]
    overrides += [f"trainer.batch_size={BATCH}", *words]
    if name == "factorized":
        first = next(iter(EpisodeStore.open(data).spec.observations))
        base = prepared("diffusion", data, directory / "bases", device, f"observations=[{first}]")
        save_checkpoint(directory / "bases/kept", base)
        overrides.append(f"policy.base={directory}/bases/kept")
    composed = compose("train", [*overrides, f"out={directory}/{name}"])
    return prepare(parse(TrainConfig, composed, "train"), progress=False)


def windows(
    store: EpisodeStore, directory: Path, *, device: str, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Windows a second of one gather a batch, beside a loop over samples."""
    on_device = _windows(store, device, "device", directory)
    mapped = _windows(store, device, "memmap", directory)
    index = torch.randint(len(on_device), (BATCH,), device=device)
    loop = SampleLoop(store)
    where = index.tolist()
    times = interleave(
        {
            "gather, device": lambda: _finish(on_device.gather(index)),
            "gather, memmap": lambda: _finish(mapped.gather(index)),
            "loop over samples": lambda: loop.gather(where),
        },
        seconds=seconds, rounds=rounds,
    )  # fmt: skip
    found = {name: summary(values) for name, values in times.items()}
    return [
        {"how": name, "batch": BATCH, "ms": ms, "windows_per_s": BATCH / ms["p50"] * 1e3}
        for name, ms in found.items()
    ]


def _windows(
    store: EpisodeStore, device: str, cache: Literal["device", "memmap"], directory: Path
) -> Windows:
    return Windows(
        store, obs_keys=list(store.spec.observations), obs_horizon=OBS_HORIZON, pred_horizon=PRED_HORIZON,
        action_horizon=ACTION_HORIZON, device=device, cache=cache, directory=directory,
    )  # fmt: skip


class SampleLoop:
    """What `Windows` replaces: a data set that is asked for one sample at a time, from arrays in memory."""

    def __init__(self, store: EpisodeStore) -> None:
        self.data = {key: store.read(key) for key in (*store.spec.observations, "action")}
        ends = store.episode_ends
        self.bounds = [
            (int(end - length), int(end) - 1) for end, length in zip(ends, store.lengths, strict=True)
            for _ in range(length)
        ]  # fmt: skip

    def sample(self, index: int) -> dict[str, np.ndarray]:
        """Observations `[To, ...]` and action `[Tp, Da]` of window `index`."""
        first, last = self.bounds[index]
        past = OBS_HORIZON - 1
        found = {}
        for key, data in self.data.items():
            ahead = 1 if key != "action" else PRED_HORIZON - past
            begin, end = max(index - past, first), min(index + ahead, last + 1)
            before, after = begin - (index - past), index + ahead - end
            found[key] = np.concatenate([data[[begin] * before], data[begin:end], data[[end - 1] * after]])
            if key == "action" and after:
                found[key][-after:, :-1] = 0.0  # deltas stop, the gripper holds
        return found

    def gather(self, index: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch `[B, ...]` as a data loader collates it."""
        samples = [self.sample(i) for i in index]
        return {key: torch.from_numpy(np.stack([s[key] for s in samples])) for key in self.data}


def step_of(trainer: Trainer, *, by_mkl: bool = False) -> Callable[[], None]:
    """A call that trains for one step."""

    def step() -> None:
        with products_of(0 if by_mkl else trainer.config.batch_size):
            trainer._update()
        trainer.step += 1
        _finish(trainer)

    trainer.policy.train()
    return step


def _sample(policy: DenoisingPolicy, solver: str, steps: int, batch: int) -> Callable[[], object]:
    return _calling(policy.with_sampler({"name": solver, "steps": steps}), batch)


def _calling(policy: Policy, batch: int) -> Callable[[], object]:
    seen = blank_observation(policy, batch)
    return lambda: policy.sample(seen).actions


def _finish(result: object) -> object:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result
