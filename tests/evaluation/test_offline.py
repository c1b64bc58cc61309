from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, SpecMismatch
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.offline import format_error, held_out, offline_error
from robopolicy.evaluation.plots import error_by_dimension
from robopolicy.policies.policy import Generation, Policy, Provenance
from tests.toy_env import toy_spec, toy_task


class Straight(Policy):
    """Predicts the noiseless straight expert exactly, plus a constant; or a constant alone."""

    def __init__(self, shift: float = 0.0, constant: bool = False, obs_horizon: int = 1) -> None:
        codec = Codec(CodecConfig(observation="identity", action="identity"), toy_spec())
        super().__init__(toy_spec(), codec, obs_horizon=obs_horizon, pred_horizon=6, action_horizon=4)
        rows = {key: torch.zeros(4, obs_horizon, 2) for key in ("position", "goal")}
        codec.fit(iter([(rows, torch.zeros(4, 6, 2))]))
        self.shift, self.constant = shift, constant
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def generate(
        self, observation: dict[str, Tensor], noise: Tensor, *_: object, **how: object
    ) -> Generation:
        position, goal = observation["position"][:, 0].clone(), observation["goal"][:, 0]
        actions = []
        for _ in range(self.pred_horizon):
            gap = (goal - position) / 0.1
            action = (gap / gap.abs().amax(1, keepdim=True).clamp(min=1)).clamp(-1, 1)
            position = position + 0.1 * action
            actions.append(torch.zeros_like(action) if self.constant else action)
        return Generation(code=torch.stack(actions, dim=1) + torch.tensor([self.shift, 0.0]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("offline") / "toy.zarr"
    collect(toy_task(success_hold=2), path, episodes=12, workers=0, progress=False)
    return EpisodeStore.open(path)


def test_a_perfect_policy_has_no_error_even_at_the_ends_of_episodes(store: EpisodeStore) -> None:
    error = offline_error(Straight(), store, range(12), progress=False)
    assert max(error["rmse"]) < 1e-5
    assert max(error["rmse_by_step"]) < 1e-5
    assert error["steps"] == [0, 1, 2, 3, 4, 5]
    assert error["windows"] == store.lengths.sum()


def test_a_constant_offset_is_found_in_its_dimension_and_unit(store: EpisodeStore) -> None:
    error = offline_error(Straight(shift=0.25), store, range(12), progress=False)
    assert error["rmse"] == pytest.approx([0.25, 0.0], abs=1e-5)
    assert error["mae"] == pytest.approx([0.25, 0.0], abs=1e-5)
    assert error["rmse_by_step"] == pytest.approx([np.sqrt(0.25**2 / 2)] * 6, abs=1e-5)


def test_predicting_nothing_has_relative_error_of_at_least_one(store: EpisodeStore) -> None:
    error = offline_error(Straight(constant=True), store, range(12), progress=False)
    assert all(value >= 0.999 for value in error["relative"])
    assert error["relative"] == pytest.approx(
        (np.asarray(error["rmse"]) / np.asarray(error["deviation"])).tolist()
    )


def test_steps_are_counted_from_now(store: EpisodeStore) -> None:
    error = offline_error(Straight(obs_horizon=2), store, range(12), progress=False)
    assert error["steps"][:2] == [-1, 0]


def test_the_number_of_windows_is_limited_and_spread(store: EpisodeStore) -> None:
    assert offline_error(Straight(), store, range(12), limit=20, progress=False)["windows"] == 20


def test_constant_dimensions_are_named_not_divided_by(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    spec = toy_spec()
    flat = EpisodeStore.create(tmp_path / "flat.zarr", spec)
    for _ in range(3):
        actions = np.zeros((9, 2), np.float32)
        actions[:, 0] = generator.uniform(-1, 1, 9)
        rows = {key: generator.normal(size=(9, 2)).astype(np.float32) for key in spec.observations}
        flat.append({**rows, "action": actions})
    error = offline_error(Straight(), flat, range(3), progress=False)
    assert error["relative"][1] is None
    assert np.isfinite(error["relative_by_step"]).all()
    assert "constant" in format_error(error)


def test_table_and_plot(store: EpisodeStore, tmp_path: Path) -> None:
    error = offline_error(Straight(shift=0.25), store, [10, 11], progress=False)
    text = format_error(error, "held out from training")
    assert "2 episodes: held out from training" in text
    assert "0.25000" in text
    error_by_dimension(error, tmp_path / "error.png")
    assert (tmp_path / "error.png").read_bytes().startswith(b"\x89PNG")


def test_held_out_episodes_are_those_of_the_run(store: EpisodeStore) -> None:
    policy = Straight()
    config = {"validation": 0.25, "seed": 3, "demonstrations": None}
    policy.provenance = Provenance(fingerprint=store.fingerprint(), config=config)
    episodes, what = held_out(policy, store)
    assert len(episodes) == 3
    assert what == "held out from training"
    policy.provenance = dataclasses.replace(policy.provenance, config={**config, "validation": 0.0})
    assert held_out(policy, store)[1].startswith("TRAINING")
    policy.provenance = Provenance(fingerprint="other")
    assert held_out(policy, store) == (list(range(12)), "another store than the training data")


def test_what_cannot_be_measured_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(DataError, match="no episode"):
        offline_error(Straight(), store, [], progress=False)
    policy = Straight()
    policy.spec = dataclasses.replace(toy_spec(), control_hz=5.0)
    with pytest.raises(SpecMismatch, match="control_hz"):
        offline_error(policy, store, [0], progress=False)
