from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.policies.policy import Policy
from robopolicy.policies.residual import ResidualConfig, ResidualPolicy
from robopolicy.registry import to_dict
from tests.policies.toys import generators
from tests.rl.toy_base import astray, practise, refiner
from tests.rl.toy_policy import toy_policy


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


def test_only_the_executed_rows_are_corrected_and_no_further_than_the_scale() -> None:
    base = toy_policy(obs_horizon=2, pred_horizon=8, action_horizon=3)
    policy, observation = corrected(base, scale=0.25), seen(horizon=2)
    with torch.no_grad():
        policy.actor.layers[-1].bias.fill_(50.0)
    noise = torch.randn(5, 1, *base.noise_shape)
    moved = policy.sample(observation, noise=noise).actions - base.sample(observation, noise=noise).actions
    assert (moved[:, :, :1] == 0).all()
    assert (moved[:, :, 4:] == 0).all()
    torch.testing.assert_close(moved[:, :, 1:4], torch.full((5, 1, 3, 2), 0.25))


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
    code, squashed = torch.randn(6, 4, 2), 2 * torch.rand(6, 8) - 1
    reached = policy.correct(code, squashed)[:, policy.executed]
    torch.testing.assert_close(policy.correction(code, reached), squashed, atol=1e-5, rtol=0)
    assert policy.correction(code, reached + 100).eq(1).all()


def test_it_forwards_what_the_base_can_do_with_noise() -> None:
    assert corrected(toy_policy()).capabilities == {"noise"}
    assert corrected(astray("test_mute")).capabilities == set()


@pytest.mark.parametrize("action_horizon", [None, 1])
def test_the_base_in_the_replay_is_the_base_that_is_executed(action_horizon: int | None) -> None:
    made = refiner(
        "residual", astray(), lanes=3, warmup=10**6, action_horizon=action_horizon, scale=1e-6, critic_first=0
    )
    executed: list[np.ndarray] = []
    inner = made.practice.step
    made.practice.step = lambda chunk: (executed.append(chunk), inner(chunk))[1]
    practise(made, 200)
    stored = made.replay.sample(10_000, torch.Generator().manual_seed(0))
    size = made.residual.action_size
    base = {tuple(row) for row in stored["state"][:, -size:].numpy().round(3).tolist()}
    done = {tuple(row) for chunk in executed for row in chunk.reshape(3, -1).round(3).tolist()}
    assert len(base & done) > 0.9 * len(done)  # rounding separates a few
    # What a transition ends with is what the next one begins with, unless the episode ended.
    following = {tuple(row) for row in stored["next_state"].numpy().round(4).tolist()}
    begun = {tuple(row) for row in stored["state"].numpy().round(4).tolist()}
    assert len(following & begun) > 0.5 * len(begun)
