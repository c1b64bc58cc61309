from __future__ import annotations

import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError
from robopolicy.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from robopolicy.rl.rlpd import blank_policy
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from tests.rl.toy_base import TASK, practise, refiner
from tests.toy_env import toy_spec

WIDE = Spec(
    observations={"state": ObservationSpec(shape=(3,))},
    action=ActionSpec(names=("x", "y"), low=(-1.0, 2.0), high=(3.0, 2.5)),
    control_hz=10,
)


def actor(spec: Spec = WIDE, obs_horizon: int = 1, action_horizon: int = 1) -> SquashedGaussianPolicy:
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec)
    config = SquashedGaussianConfig(obs_horizon=obs_horizon, action_horizon=action_horizon, hidden=(16,))
    return SquashedGaussianPolicy(config, spec=spec, codec=codec).eval()


def test_actions_fill_the_bounds_of_the_robot() -> None:
    policy = actor(action_horizon=3)
    corners = policy.to_actions(torch.tensor([[-1.0, -1, 1, 1, 0, 0]]))
    assert corners.tolist() == [[[-1, 2], [3, 2.5], [1, 2.25]]]
    squashed = 2 * torch.rand(7, 6) - 1
    torch.testing.assert_close(policy.from_actions(policy.to_actions(squashed)), squashed)


def test_rows_of_the_past_hold_the_first_action() -> None:
    policy = actor(obs_horizon=3, action_horizon=2)
    actions = policy.sample({"state": torch.randn(4, 3, 3)}).actions
    assert actions.shape == (4, 1, 4, 2)
    assert torch.equal(actions[:, :, 0], actions[:, :, 2])
    assert torch.equal(actions[:, :, 1], actions[:, :, 2])
    assert not torch.equal(actions[:, :, 2], actions[:, :, 3])


def test_unbounded_actions_are_refused() -> None:
    spec = Spec(
        observations=WIDE.observations,
        action=ActionSpec(names=("x",), low=(float("-inf"),), high=(1.0,)),
        control_hz=10,
    )
    with pytest.raises(ConfigError, match="finite action bounds"):
        actor(spec)


def test_it_starts_from_nothing_but_a_spec() -> None:
    policy = blank_policy(toy_spec(), action_horizon=2)
    policy.provenance = type(policy.provenance)(task=TASK)
    made = refiner("sac", policy, lanes=4, warmup=50, update_ratio=0.3)
    rows = practise(made, 120)
    assert "critic_loss" in rows[-1]
    assert made.refined().action_horizon == 2


def test_horizons_may_be_its_own() -> None:
    made = refiner(
        "sac", blank_policy(toy_spec(), action_horizon=4), lanes=4, action_horizon=1, obs_horizon=2
    )
    made.advance()
    policy = made.refined()
    assert (policy.obs_horizon, policy.pred_horizon, policy.action_horizon) == (2, 2, 1)
    assert made.env_steps == 4
