from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.collect import collect
from robopolicy.learning.train import all_windows
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.steering.past_verified import PastVerified
from robopolicy.vector import LaneVectorEnv
from tests.commands import run
from tests.policies.toys import generators
from tests.rl.toy_policy import saved, toy_policy
from tests.steering.cue_env import SPEC as CUE
from tests.steering.cue_env import cue_task
from tests.steering.toys import HELD, wandering
from tests.steering.value_toys import fitted
from tests.toy_env import toy_task


def verified(policy: Policy, **settings: Any) -> PastVerified:
    made = build("steer", {"name": "past_verified", **settings}, policy=policy)
    assert isinstance(made, PastVerified)
    return made


def longer(seed: int = 3, **codec: Any) -> Policy:
    """Four observations, so three past actions, in units that the network does not share."""
    policy = wandering(obs_horizon=4, pred_horizon=8)
    policy.codec = fitted(policy.spec, seed, **codec)
    return policy


def executed(batch: int, seed: int = 0) -> np.ndarray:
    """`[B, 3, 2]`."""
    return np.random.default_rng(seed).normal(size=(batch, 3, 2)).astype(np.float32)


def place(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {k: rng.normal(size=(batch, 4, *o.shape)).astype(np.float32) for k, o in HELD.observations.items()}


def offered(policy: Policy, seen: dict[str, np.ndarray], row: int, seed: int, many: int) -> np.ndarray:
    """The candidates of one row `[K, Tp, Da]`: the first from the request's noise, the others after it."""
    generator = torch.Generator().manual_seed(seed)
    shape = policy.noise_shape
    noise = torch.cat(
        [
            torch.randn(1, 1, *shape, generator=generator),
            torch.randn(1, many - 1, *shape, generator=generator),
        ],
        1,
    )
    one = {k: v[row : row + 1] for k, v in seen.items()}
    return np.asarray(policy.sample(one, n=many, noise=noise).actions[0])


def test_with_one_candidate_it_is_the_policy_bit_for_bit() -> None:
    base = toy_policy(obs_horizon=3, pred_horizon=8)
    task = toy_task(horizon=12)

    def played(policy: Policy) -> list[bytes]:
        envs = LaneVectorEnv(task, 3, chunk=4)
        runs = run_episodes(envs, PolicyActor(policy), episode_seeds("select", 5), record=True)
        tables = {episode.seed: episode.data["action"].tobytes() for episode in runs}
        envs.close()
        return [tables[seed] for seed in sorted(tables)]

    alone = verified(base, candidates=1)
    assert played(alone) == played(base)
    assert alone.capabilities == {"noise"}
    assert alone.ledger.report()["mismatch_chosen"] == alone.ledger.report()["mismatch_first"]


@pytest.mark.parametrize("learned", [None, 3, 2])
def test_the_candidate_nearest_to_what_was_executed_is_kept(learned: int | None) -> None:
    """By the mean squared difference of encoded actions, of those past actions that were learned."""
    policy, seen, done = longer(), place(4), executed(4)
    policy.provenance = dataclasses.replace(policy.provenance, config={"past_actions": learned})
    steered = verified(policy, candidates=5)
    found = steered.sample(seen, generator=generators(1, 2, 3, 4), executed=done).actions[:, 0]
    scale = policy.codec.get_buffer("action_scale").numpy()
    first = 3 - (3 if learned is None else learned)
    errors = []
    for row in range(4):
        chunks = offered(policy, seen, row, row + 1, 5)
        error = (((chunks[:, first:3] - done[row, first:]) * scale) ** 2).mean((1, 2))
        np.testing.assert_allclose(found[row], chunks[error.argmin()], atol=1e-5)
        errors.append(error)
    report = steered.ledger.report()
    assert report["chunks"] == 4
    assert report["mismatch_chosen"] == report["mismatch_nearest"]
    assert report["mismatch_nearest"] == pytest.approx(float(np.min(errors, 1).mean()), rel=1e-4)
    assert report["mismatch_random"] == pytest.approx(float(np.mean(errors)), rel=1e-4)
    assert report["mismatch_first"] == pytest.approx(float(np.mean([e[0] for e in errors])), rel=1e-4)
    assert report["seconds_policy"] > 0


def test_steps_before_the_episode_do_not_count_and_without_any_the_first_is_kept() -> None:
    policy, seen, done = longer(), place(2), executed(2)
    done[0, :2], done[1] = np.nan, np.nan
    found = verified(policy, candidates=6).sample(seen, generator=generators(1, 2), executed=done).actions
    chunks = offered(policy, seen, 0, 1, 6)
    scale = policy.codec.get_buffer("action_scale").numpy()
    nearest = (((chunks[:, 2] - done[0, 2]) * scale) ** 2).mean(1).argmin()
    np.testing.assert_allclose(found[0, 0], chunks[nearest], atol=1e-5)
    np.testing.assert_allclose(found[1, 0], offered(policy, seen, 1, 2, 6)[0], atol=1e-5)


@pytest.mark.parametrize("representation", ["absolute", "delta", "relative"])
def test_what_was_executed_is_recognised_in_every_representation(representation: str) -> None:
    steered = verified(longer(representation=representation), candidates=2)
    seen = {key: torch.as_tensor(value) for key, value in place(3).items()}
    code = torch.randn(3, 8, steered.codec.action_size)
    done = steered.codec.decode_action(code, seen)[:, :3]
    assert float(steered.mismatch(code, seen, done).max()) < 1e-9
    done[:, 2] += 0.5
    assert float(steered.mismatch(code, seen, done).min()) > 1e-3
    done[:, 2] = torch.nan
    assert float(steered.mismatch(code, seen, done).max()) < 1e-9


def test_a_row_does_not_depend_on_its_batch() -> None:
    steered, seen, done = verified(longer(), candidates=4), place(3), executed(3)
    together = steered.sample(seen, n=2, generator=generators(1, 2, 3), executed=done).actions
    one = {k: v[1:2] for k, v in seen.items()}
    alone = steered.sample(one, n=2, generator=generators(2), executed=done[1:2]).actions
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_any_candidate_for_comparison() -> None:
    steered = verified(longer(), candidates=4, rule="random")
    seen, done = place(1), executed(1)
    index = []
    for seed in range(100):
        found = steered.sample(seen, generator=generators(seed), executed=done).actions[0, 0]
        index.append(int(np.abs(offered(longer(), seen, 0, seed, 4) - found).max((1, 2)).argmin()))
    assert np.bincount(index, minlength=4).min() > 10
    report = steered.ledger.report()
    assert report["mismatch_nearest"] < report["mismatch_chosen"]


def test_candidates_are_halved_until_they_fit_into_the_time_there_is() -> None:
    steered = verified(longer(), candidates=8)

    def latency(policy: Policy) -> float:
        assert isinstance(policy, PastVerified)
        return 0.001 * policy.config.candidates

    with pytest.warns(UserWarning, match="8 candidates do not fit into 4.0 ms; 4 take 4.0 ms"):
        assert steered.capped(0.004, latency).config.candidates == 4
    measured = steered.capped(60.0)
    assert measured.config == steered.config
    assert measured.ledger.report()["chunks"] == 0


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("cue") / "cue.zarr"
    collect(cue_task(), path, episodes=40, workers=0, progress=False)
    return EpisodeStore.open(path)


def remembering(store: EpisodeStore, obs_horizon: int, past_actions: int | None = None) -> Policy:
    """A mixture of two modes after 250 updates."""
    torch.manual_seed(0)
    horizons = {"obs_horizon": obs_horizon, "pred_horizon": obs_horizon + 7, "action_horizon": 4}
    windows = Windows(store, obs_keys=["light"], past_actions=past_actions, **horizons)
    codec = Codec(CodecConfig(), CUE)
    codec.fit(all_windows(windows, torch.device("cpu")))
    config = {"name": "gmm", "width": 64, "blocks": 1, "modes": 2, **horizons}
    policy: Policy = build("policy", config, spec=CUE, codec=codec)
    policy.provenance = dataclasses.replace(policy.provenance, config={"past_actions": past_actions})
    optimizer = torch.optim.Adam(policy.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        index = torch.randint(len(windows), (256,), generator=generator)
        loss, _ = policy(windows.gather(index), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.eval()


def success(policy: Policy) -> float:
    envs = LaneVectorEnv(cue_task(), 20, chunk=4)
    seeds = episode_seeds("select", 60)
    done = [episode.success for episode in run_episodes(envs, PolicyActor(policy), seeds)]
    envs.close()
    return sum(done) / len(done)


@pytest.mark.slow
def test_a_cue_is_remembered_beyond_the_history(demonstrations: EpisodeStore) -> None:
    """Six chunks; after the light is out of sight each goes left or right by chance.

    Two observations leave five chunks blind, eight leave three, 24 none. Verified, ten candidates lack the
    right side once in 1024 chunks.
    """
    short, long = remembering(demonstrations, 2), remembering(demonstrations, 8)
    assert success(short) < 0.15
    assert success(long) < 0.35
    assert success(remembering(demonstrations, 8, past_actions=0)) < 0.35
    assert success(remembering(demonstrations, 24)) > 0.9
    assert success(verified(long)) > 0.9
    assert success(verified(long, rule="random")) < 0.35


def test_it_is_said_on_the_command_line_and_its_numbers_are_kept(tmp_path: Path) -> None:
    base = saved(toy_policy(obs_horizon=2, pred_horizon=8), tmp_path / "policy")
    line = [f"checkpoint={base}", "episodes=2", "lanes=2", "workers=0", "video=0"]
    run("evaluate", *line, "steer=past_verified", "steer.candidates=3")
    (where,) = base.glob("**/evaluation_past_verified")
    found = json.loads((where / "steering.json").read_text())
    assert 0 < found["mismatch_nearest"] == found["mismatch_chosen"] <= found["mismatch_first"]


def test_what_cannot_work_is_refused() -> None:
    seen, done = place(1), executed(1)
    with pytest.raises(ConfigError, match="at least 1"):
        verified(longer(), candidates=0)
    with pytest.raises(ConfigError, match="obs_horizon=1"):
        verified(toy_policy())
    forgetful = longer()
    forgetful.provenance = dataclasses.replace(forgetful.provenance, config={"past_actions": 0})
    with pytest.raises(ConfigError, match="past_actions=0"):
        verified(forgetful)
    with pytest.raises(ConfigError, match="needs the actions that were executed"):
        verified(longer()).sample(seen)
    with pytest.raises(ConfigError, match=r"executed must be \[1, 3, 2\], got \[1, 2, 2\]"):
        verified(longer()).sample(seen, executed=done[:, :2])
    with pytest.raises(MissingCapability, match="lacks noise"):
        verified(longer()).sample(seen, noise=torch.zeros(1, 1, 8, 2), executed=done)
    alone = verified(longer(), candidates=1)
    assert np.isfinite(alone.sample(seen, noise=torch.zeros(1, 1, 8, 2), executed=done).actions).all()
