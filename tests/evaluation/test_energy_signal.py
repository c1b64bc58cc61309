from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows
from robopolicy.errors import DataError, MissingCapability
from robopolicy.evaluation.energy_signal import (
    DenoisingLoss,
    Moment,
    NearestTraining,
    SampleVariance,
    Signal,
    SignalActor,
    auroc,
    disturbed_against_nominal,
    elapsed,
    failing_against_succeeding,
)
from robopolicy.evaluation.evaluate import EpisodeRow, evaluate
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.rollout import PolicyActor
from tests.policies.two_modes import make
from tests.toy_env import toy_spec, toy_task


def brute_force(bad: np.ndarray, good: np.ndarray, *, matched: bool) -> float:
    wins = pairs = 0.0
    for (e, t), (f, u) in itertools.product(np.ndindex(bad.shape), np.ndindex(good.shape)):
        a, b = bad[e, t], good[f, u]
        if (t == u or not matched) and not np.isnan(a) and not np.isnan(b):
            wins += 1.0 if a > b else 0.5 if a == b else 0.0
            pairs += 1
    return wins / pairs


@pytest.mark.parametrize("matched", [True, False])
def test_auroc_equals_brute_force_with_ties_and_gaps(matched: bool) -> None:
    rng = np.random.default_rng(0)
    bad, good = (np.round(rng.normal(shift, 1, (6, 5)), 1) for shift in (0.5, 0.0))
    bad[rng.random(bad.shape) < 0.2] = np.nan
    good[rng.random(good.shape) < 0.2] = np.nan
    found = auroc(bad, good, matched=matched)
    assert found.value == pytest.approx(brute_force(bad, good, matched=matched))
    assert found.low < found.value < found.high


def test_auroc_of_separated_equal_and_reversed_scores() -> None:
    low, high = np.zeros((3, 4)), np.ones((3, 4))
    assert [auroc(a, b).value for a, b in ((high, low), (low, low), (low, high))] == [1.0, 0.5, 0.0]
    gaps = np.full((3, 4), np.nan)
    with pytest.raises(DataError, match="compared"):
        auroc(gaps, low)


def row(seed: int, success: bool, steps: int = 4) -> EpisodeRow:
    first = steps - 1 if success else -1
    return EpisodeRow(0, seed, success, success, steps, first, 0.0)


def test_a_signal_that_only_grows_with_time_is_worth_nothing_at_matched_times() -> None:
    rows = [row(seed, seed < 5, 4 if seed < 5 else 8) for seed in range(10)]
    scores = {
        (seed, time): {"elapsed": float(time), "energy": float(seed >= 5)}
        for seed in range(10)
        for time in range(8)
    }
    found = failing_against_succeeding(scores, rows)
    assert found["elapsed"].value == 0.5
    assert found["energy"].value == 1.0
    assert failing_against_succeeding(scores, rows, matched=False)["elapsed"].value > 0.8
    with pytest.raises(DataError, match="0 episodes failed and 5 succeeded"):
        failing_against_succeeding(scores, rows[:5])


def test_disturbed_chunks_are_compared_with_those_of_the_same_time() -> None:
    nominal = {(seed, time): {"energy": float(time)} for seed in range(4) for time in range(4)}
    disturbed = {key: {"energy": value["energy"] + 0.5} for key, value in nominal.items()}
    found = disturbed_against_nominal(disturbed, nominal, [row(seed, True) for seed in range(4)])
    assert found["energy"].value == 1.0


@pytest.fixture(scope="module")
def policies() -> tuple[Any, DenoisingPolicy]:
    settings = {"pred_horizon": 4, "action_horizon": 2}
    energy = make("energy_denoising", toy_spec(), sampler={"name": "ddim", "steps": 2}, **settings)
    diffusion = make("diffusion", toy_spec(), sampler={"name": "ddim", "steps": 2}, **settings)
    assert isinstance(diffusion, DenoisingPolicy)
    return energy, diffusion


def test_scoring_changes_nothing_and_scores_every_chunk(policies: tuple[Any, DenoisingPolicy]) -> None:
    energy, diffusion = policies
    signals: dict[str, Signal] = {
        "elapsed": elapsed,
        "variance": SampleVariance(diffusion),
        "loss": DenoisingLoss(diffusion),
    }

    def shift(observation: dict[str, Any]) -> dict[str, Any]:
        observation["goal"] += 5
        return observation

    actor = SignalActor(energy, signals, shift)
    settings: dict[str, Any] = {"episodes": 4, "block": "select", "lanes": 2, "workers": 0, "progress": False}
    scored = evaluate(actor, toy_task(horizon=8), **settings)
    plain = evaluate(PolicyActor(energy), toy_task(horizon=8), **settings)
    assert scored.rows == plain.rows
    for episode in scored.rows:
        for time in range(0, episode.steps, 2):
            scores = actor.scores[episode.seed, time]
            assert set(scores) == {"energy", "elapsed", "variance", "loss"}
            assert scores["elapsed"] == time
            assert actor.disturbed[episode.seed, time]["energy"] != scores["energy"]
    found = disturbed_against_nominal(actor.disturbed, actor.scores, scored.rows)
    assert set(found) == {"energy", "elapsed", "variance", "loss"}
    assert found["elapsed"].value == 0.5


def moment(policy: Any, seeds: list[int]) -> Moment:
    seen = {key: torch.full((len(seeds), 2, 2), 0.3) for key in ("position", "goal")}
    noise = torch.zeros(len(seeds), 1, *policy.noise_shape)
    return Moment(seen, policy.sample(seen, noise=noise).actions[:, 0], seeds, [0] * len(seeds))


def test_signals_are_positive_and_repeat_themselves(policies: tuple[Any, DenoisingPolicy]) -> None:
    diffusion = policies[1]
    for signal in (SampleVariance(diffusion), DenoisingLoss(diffusion)):
        first, second = (signal(moment(diffusion, [3, 3, 4])) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.allclose(first[0], first[1])
        assert (first > 0).all()


def test_the_denoising_loss_prefers_the_policys_own_chunk(policies: tuple[Any, DenoisingPolicy]) -> None:
    diffusion = policies[1]
    own = moment(diffusion, [0, 1])
    far = Moment(own.observation, own.actions + 5, own.seeds, own.times)
    assert (DenoisingLoss(diffusion)(far) > DenoisingLoss(diffusion)(own)).all()


def test_the_nearest_training_observation(policies: tuple[Any, DenoisingPolicy], tmp_path: Any) -> None:
    diffusion = policies[1]
    line = np.linspace(0, 1, 11, dtype=np.float32)[:, None].repeat(2, 1)
    episode = {"position": line, "goal": line, "action": line}
    store = EpisodeStore.from_arrays(tmp_path / "own.zarr", episodes=[episode], control_hz=10)
    windows = Windows(store, obs_keys=["position", "goal"], obs_horizon=2, pred_horizon=4, action_horizon=2)
    seen = {key: torch.tensor([0.5, 4.0])[:, None, None].expand(2, 2, 2) for key in ("position", "goal")}
    near, far = NearestTraining(diffusion, windows)(
        Moment(seen, torch.zeros(2, 4, 2), [0, 0], [0, 0])
    ).tolist()
    assert near == pytest.approx((0 + 0.1 + 0.1 + 0.2 + 0.2) / 5, abs=1e-5)
    assert far == pytest.approx(3.2, abs=1e-5)


def test_a_policy_without_an_energy_is_refused(policies: tuple[Any, DenoisingPolicy]) -> None:
    with pytest.raises(MissingCapability, match="energy"):
        SignalActor(policies[1], {})
