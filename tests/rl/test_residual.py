from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.policy import Policy
from robopolicy.policies.residual import ResidualConfig, ResidualPolicy
from robopolicy.registry import to_dict
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.vector import LaneVectorEnv
from tests.policies.toys import generators
from tests.rl.toy_base import astray, practise, refiner
from tests.rl.toy_policy import toy_policy
from tests.toy_env import toy_task


def seen(batch: int = 5, horizon: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(batch, horizon, 2, generator=generator) for key in ("position", "goal")}


def corrected(base: Policy, **changes: object) -> ResidualPolicy:
    config = ResidualConfig(base=to_dict("policy", base), hidden=(16,), **changes)  # type: ignore[arg-type]
    policy = ResidualPolicy(config, spec=base.spec, codec=base.codec)
    policy.base.load_state_dict(base.state_dict())
    return policy.eval()


@pytest.mark.parametrize("sampler", [{"name": "ddim", "steps": 5}, {"name": "ddpm", "steps": 5}])
def test_untrained_it_is_the_base_bit_for_bit(sampler: dict[str, object]) -> None:
    base = toy_policy(sampler=sampler)
    policy, observation = corrected(base), seen()
    rows = [torch.Generator().manual_seed(seed) for seed in range(5)]
    again = [torch.Generator().manual_seed(seed) for seed in range(5)]
    drawn = base.sample(observation, n=2, generator=rows).actions
    assert torch.equal(policy.sample(observation, n=2, generator=again).actions, drawn)
    noise = torch.randn(5, 2, *base.noise_shape)
    given = base.sample(observation, n=2, noise=noise).actions
    assert torch.equal(policy.sample(observation, n=2, noise=noise).actions, given)


def test_only_the_action_of_now_is_corrected_and_no_further_than_the_scale() -> None:
    base = toy_policy(obs_horizon=2, pred_horizon=8, action_horizon=3)
    policy, observation = corrected(base, scale=0.25), seen(horizon=2)
    with torch.no_grad():
        policy.actor.layers[-1].bias.fill_(50.0)
    noise = torch.randn(5, 1, *base.noise_shape)
    moved = policy.sample(observation, noise=noise).actions - base.sample(observation, noise=noise).actions
    assert policy.action_horizon == 1
    assert (moved[:, :, :1] == 0).all()
    assert (moved[:, :, 2:] == 0).all()
    torch.testing.assert_close(moved[:, :, 1], torch.full((5, 1, 2), 0.25))
    planned = torch.randn(5, 2)
    torch.testing.assert_close(policy.adjust(observation, planned), planned + 0.25)


def test_what_is_not_corrected_stays_bit_for_bit_whatever_the_units() -> None:
    base = toy_policy()
    base.codec.action_center.fill_(0.123)
    base.codec.action_scale.fill_(1 / 3)
    policy, planned = corrected(base), torch.randn(5, 2)
    assert torch.equal(policy.adjust(seen(), planned), planned)
    code = policy.encode(planned, seen())
    assert not torch.equal(policy.corrected(planned, code, torch.full((5, 2), 1e-3), seen()), planned)


def test_a_row_does_not_depend_on_its_batch() -> None:
    policy, observation = corrected(toy_policy(sampler={"name": "ddpm", "steps": 5})), seen()
    for parameter in policy.actor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    whole = policy.sample(observation, n=2, generator=generators(1, 2, 3, 4, 5)).actions
    alone = {key: value[1:2] for key, value in observation.items()}
    found = policy.sample(alone, n=2, generator=generators(2)).actions
    torch.testing.assert_close(found[0], whole[1], atol=1e-5, rtol=0)


def test_the_correction_towards_an_action_is_the_one_that_reaches_it() -> None:
    policy = corrected(toy_policy(), scale=0.3)
    planned, squashed = torch.randn(6, 2), 2 * torch.rand(6, 2) - 1
    observation = seen(6)
    code = policy.encode(planned, observation)
    reached = policy.encode(policy.corrected(planned, code, squashed, observation), observation)
    torch.testing.assert_close(policy.correction(code, reached), squashed, atol=1e-5, rtol=0)
    assert policy.correction(code, reached + 100).eq(1).all()


def test_it_forwards_what_the_base_can_do_with_noise() -> None:
    assert corrected(toy_policy()).capabilities == {"noise"}
    assert corrected(astray("test_mute")).capabilities == set()


@pytest.mark.parametrize("action_horizon", [None, 2, 1])
def test_the_bases_chunk_is_executed_action_by_action(action_horizon: int | None) -> None:
    base = astray()
    made = refiner(
        "residual", base, lanes=3, warmup=10**6, action_horizon=action_horizon, scale=1e-6, critic_first=0
    )
    asked: list[int] = []
    inner = made._propose
    made._propose = lambda seen, generator: (asked.append(len(seen["goal"])), inner(seen, generator))[1]
    practise(made, 200)
    stored = made.replay.sample(10_000, torch.Generator().manual_seed(0))
    # What a transition ends with is what the next one begins with, unless the episode ended.
    following = {tuple(row) for row in stored["next_state"].numpy().round(4).tolist()}
    begun = {tuple(row) for row in stored["state"].numpy().round(4).tolist()}
    assert len(following & begun) > 0.8 * len(begun)
    steps, chunks = made.env_steps, sum(asked)
    episodes = made.practice.next_seed - made.practice.first_seed
    assert steps / (action_horizon or 4) <= chunks <= steps / (action_horizon or 4) + 2 * episodes
    assert made.refined().planner.action_horizon == (action_horizon or 4)


def test_in_evaluation_too_the_chunk_stays_until_it_is_used_up() -> None:
    """An untrained residual acts as its base does by itself, chunk by chunk, with the same noise."""
    base = toy_policy()
    policy = corrected(base)
    seeds = episode_seeds("select", 5)
    played = []
    for actor in (PolicyActor(base), PolicyActor(policy)):
        envs = LaneVectorEnv(toy_task(horizon=10, success_hold=0), 2, workers=0)
        episodes = sorted(run_episodes(envs, actor, seeds, record=True), key=lambda episode: episode.index)
        played.append([episode.data["action"] for episode in episodes])
        envs.close()
    for alone, as_residual in zip(*played, strict=True):
        np.testing.assert_allclose(as_residual, alone, atol=1e-5)


def test_its_actor_refuses_longer_chunks() -> None:
    with pytest.raises(ConfigError, match="must be 1, got 2"):
        PolicyActor(corrected(toy_policy()), action_horizon=2)
    with pytest.raises(MissingCapability, match="nothing to adjust"):
        toy_policy().adjust(seen(), torch.zeros(5, 2))
