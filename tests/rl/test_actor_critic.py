from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.rl import losses
from robopolicy.rl.actor_critic import ActorCritic, Transitions
from robopolicy.rl.convention import ConventionConfig, RewardKind
from robopolicy.rl.presets import PRESETS, learner_config

SMALL = {"hidden": [32, 32], "batch_size": 64}


def make(preset: str, seed: int = 0, **changes: Any) -> ActorCritic:
    return ActorCritic(learner_config({"preset": preset, **SMALL, **changes}), 3, 2, seed=seed)


def batch(count: int = 64, seed: int = 0) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    return Transitions(
        state=torch.randn(count, 3, generator=generator),
        action=torch.rand(count, 2, generator=generator) * 1.8 - 0.9,
        reward=torch.randn(count, generator=generator),
        discount=0.9 * (torch.rand(count, generator=generator) > 0.2),
        next_state=torch.randn(count, 3, generator=generator),
        returns=torch.zeros(count),
    )


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(loss: Tensor, learner: ActorCritic) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(learner.actor.parameters())))


def test_aggregations_on_fixed_numbers() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 4.0], [2.0, 9.0]])
    assert losses.smallest(values).tolist() == [1, 4]
    assert losses.mean(values).tolist() == [2, 6]
    assert losses.first(values).tolist() == [1, 5]
    assert losses.quantile(values, 0.5).tolist() == [2, 5]
    assert losses.quantile(values, 0.25).tolist() == [1.5, 4.5]
    seen = {tuple(losses.subset_min(values, 2, stream(seed)).tolist()) for seed in range(30)}
    assert seen == {(1, 4), (1, 5), (2, 4)}  # without the third, the second, the first


def test_the_expectile_is_that_of_the_closed_form() -> None:
    # tau (b - v) = (1 - tau) (v - a) for two equally likely values a < b: v = (1 - tau) a + tau b.
    targets, tau = torch.tensor([0.0, 10.0]), 0.7
    estimate = torch.tensor(5.0, requires_grad=True)
    for _ in range(2000):
        losses.expectile(targets - estimate, tau).mean().backward()
        with torch.no_grad():
            estimate -= 0.1 * estimate.grad  # type: ignore[operator]
            estimate.grad = None
    assert estimate.item() == pytest.approx(7.0, abs=1e-3)


def test_huber_is_the_squared_error_near_zero_and_linear_far_away() -> None:
    error = torch.tensor([0.5, -0.5, 3.0, 5.0])
    assert losses.huber(error, 1.0).tolist() == [0.25, 0.25, 5.0, 9.0]


def test_soft_targets_stop_at_termination_and_carry_the_entropy_to_come() -> None:
    learner, given = make("sac"), batch()
    found = learner.targets(given, stream(1))
    noise = torch.randn(64, 2, generator=stream(1))
    action, log_prob = learner.actor.sample(given.next_state, noise)
    ahead = learner.slow_critic(given.next_state, action).amin(0) - log_prob  # temperature 1
    torch.testing.assert_close(found, given.reward + given.discount * ahead)
    ended = given.discount == 0
    assert ended.any()
    assert torch.equal(found[ended], given.reward[ended])


def test_targets_stay_within_what_a_return_can_be() -> None:
    config = learner_config({"preset": "sac", **SMALL, "entropy_backup": False})
    free, bound = (
        ActorCritic(config, 3, 2, seed=0, value_range=r) for r in ((-math.inf, math.inf), (-0.5, 0.0))
    )
    free.slow_critic.begin_at(-0.5)
    unbound = free.targets(batch(), stream())
    assert unbound.min() < -0.5 < 0 < unbound.max()
    torch.testing.assert_close(bound.targets(batch(), stream()), unbound.clamp(-0.5, 0.0))
    soft = ActorCritic(learner_config({"preset": "sac", **SMALL}), 3, 2, seed=0, value_range=(-0.5, 0.0))
    assert soft.targets(batch(), stream()).max() > 0  # what counts entropy is not a return


def test_hopeless_states_are_known_to_be_hopeless_early() -> None:
    # From state 0 nothing succeeds, so that it costs 10 in all; from state 1 the next step succeeds.
    where = torch.arange(64) % 2
    state = torch.nn.functional.one_hot(where, 3).float()
    hopeless = replace(
        batch(), state=state, next_state=state, reward=torch.full((64,), -0.1), discount=0.99 * (where == 0)
    )
    values = {}
    for name, bounds in (("free", (-math.inf, math.inf)), ("bounded", (-10.0, 0.0))):
        quick = {"entropy_backup": False, "layer_norm": True, "learning_rate": 3e-3}
        config = learner_config({"preset": "sac", **SMALL, **quick})
        learner = ActorCritic(config, 3, 2, seed=0, value_range=bounds)
        for update in range(200):
            learner.update(hopeless, stream(update))
        values[name] = learner.critic(state[:2], hopeless.action[:2]).mean(0).tolist()
    assert values["free"][0] > -2  # as if it were nearly done
    assert values["bounded"][0] < -9
    assert values["bounded"][1] > -1


@pytest.mark.parametrize(
    ("reward", "terminate", "wanted"),
    [
        ("cost", False, (-200.0, 0.0)),
        ("cost", True, (-200.0, 0.0)),
        ("success", False, (0.0, 200.0)),
        ("success", True, (0.0, 2.0)),
        ("env", False, (-math.inf, math.inf)),
    ],
)
def test_what_a_return_can_be(reward: RewardKind, terminate: bool, wanted: tuple[float, float]) -> None:
    convention = ConventionConfig(reward=reward, terminate=terminate, scale=2.0)
    assert convention.value_range(0.99) == pytest.approx(wanted)


def test_the_gradient_of_sac_is_the_one_written_by_hand() -> None:
    learner, given = make("sac", initial_temperature=0.3), batch()
    loss, _ = learner.actor_loss(given, stream(1))
    mean, log_std = learner.actor(given.state)
    before = mean + log_std.exp() * torch.randn(64, 2, generator=stream(1))
    normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(before)
    log_prob = (normal - torch.log1p(-(before.tanh() ** 2))).sum(-1)
    by_hand = (0.3 * log_prob - learner.critic(given.state, before.tanh()).amin(0)).mean()
    for found, expected in zip(gradients(loss, learner), gradients(by_hand, learner), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_td3_bc_is_the_one_written_by_hand() -> None:
    learner, given = make("td3_bc"), batch()
    loss, _ = learner.actor_loss(given, stream())
    action = learner.actor(given.state)[0].tanh()
    value = learner.critic(given.state, action)[0]
    published = -2.5 / value.detach().abs().mean() * value.mean() + (action - given.action).square().mean()
    for found, expected in zip(gradients(loss, learner), gradients(published, learner), strict=True):
        torch.testing.assert_close(2.5 * found, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_iql_is_the_one_written_by_hand() -> None:
    learner, given = make("iql"), batch()
    loss, log_prob = learner.actor_loss(given, stream())
    advantage = learner.slow_critic(given.state, given.action).amin(0) - learner.value(given.state)[0]
    weight = torch.exp(3.0 * advantage).clamp(max=100).detach()
    by_hand = -(weight * learner.actor.log_prob(given.state, given.action)).mean()
    assert log_prob is None
    for found, expected in zip(gradients(loss, learner), gradients(by_hand, learner), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_iql_bootstraps_from_v_alone() -> None:
    learner, given = make("iql"), batch()
    expected = given.reward + given.discount * learner.value(given.next_state)[0].detach()
    torch.testing.assert_close(learner.targets(given, stream()), expected)


def test_advantage_weights_are_capped() -> None:
    weights = losses.advantage_weights(torch.tensor([0.0, 1.0, 1e6]), 3.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, math.exp(3), 100.0]))


def test_the_conservative_gap_on_fixed_numbers() -> None:
    # One action of each kind: log(exp(q + log 2) + exp(max(q', return) - log_prob)) - q_data.
    random, proposed = torch.tensor([[[1.0]]]), torch.tensor([[[0.5]]])
    log_prob, given = torch.tensor([[-0.2]]), torch.tensor([[0.7]])
    plain = losses.conservative(random, proposed, log_prob, given, 1, None)
    lifted = losses.conservative(random, proposed, log_prob, given, 1, torch.tensor([2.0]))
    assert plain.item() == pytest.approx(math.log(2 * math.e + math.exp(0.7)) - 0.7)
    assert lifted.item() == pytest.approx(math.log(2 * math.e + math.exp(2.2)) - 0.7)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resumed_learner_goes_on_as_if_nothing_had_happened(preset: str) -> None:
    straight, given = make(preset), batch()
    for update in range(4):
        straight.update(given, stream(update))
    halted = make(preset)
    for update in range(2):
        halted.update(given, stream(update))
    resumed = make(preset, seed=1)
    resumed.load_tensors({k: v.clone() for k, v in halted.tensors("x").items()}, "x")
    for update in range(2, 4):
        resumed.update(given, stream(update))
    for (name, found), expected in zip(
        resumed.tensors("x").items(), straight.tensors("x").values(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_slow_critics_follow_by_tau() -> None:
    learner, given = make("sac", tau=0.25), batch()
    before = [p.clone() for p in learner.slow_critic.parameters()]
    learner.update(given, stream())
    after = zip(before, learner.slow_critic.parameters(), learner.critic.parameters(), strict=True)
    for old, slow, online in after:
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * online)


def target_practice(count: int, seed: int) -> Transitions:
    """One step: the reward is minus the distance of the action to half of the state."""
    generator = stream(seed)
    state = torch.rand(count, 3, generator=generator) * 2 - 1
    action = torch.rand(count, 2, generator=generator) * 2 - 1
    reward = -(action - 0.5 * state[:, :2]).norm(dim=-1)
    return Transitions(
        state=state, action=action, reward=reward, discount=torch.zeros(count), next_state=state
    )


@pytest.mark.parametrize(
    ("preset", "precision"),
    [(name, "float32") for name in ("sac", "rlpd", "iql", "riql", "td3_bc")]
    + [pytest.param(name, "bfloat16", marks=pytest.mark.slow) for name in ("sac", "rlpd")],
)
def test_every_preset_finds_the_best_action(preset: str, precision: str) -> None:
    changes: dict[str, Any] = {"learning_rate": 3e-3, "initial_temperature": 0.01, "precision": precision}
    changes |= {"beta": 20.0, "expectile": 0.9} if preset in ("iql", "riql") else {}
    changes |= {"constraint_weight": 0.02} if preset == "td3_bc" else {}
    changes |= {"critics": 3} if preset in ("rlpd", "riql") else {}
    learner = make(preset, **changes)
    for update in range(400):
        learner.update(target_practice(128, update), stream(update))
    test = target_practice(500, 10_000)
    miss = (learner.act(test.state, None) - 0.5 * test.state[:, :2]).norm(dim=-1).mean()
    assert float(miss) < 0.25
    assert float(miss) < 0.35 * float(-test.reward.mean())


def test_the_actor_may_be_slower_than_its_critics() -> None:
    moved = []
    for learner in (make("sac"), make("sac", actor_rate=3e-6)):
        before = learner.actor.layers[0].weight.clone(), learner.critic.layers[0].weight.clone()
        learner.update(batch(), stream())
        after = learner.actor.layers[0].weight, learner.critic.layers[0].weight
        moved.append([float((x - y).abs().max().detach()) for x, y in zip(before, after, strict=True)])
    assert moved[1][0] == pytest.approx(0.01 * moved[0][0], rel=0.05)  # Adam's first step is its rate
    assert moved[1][1] == moved[0][1]


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_learns_nearly_the_same_and_keeps_values_whole(preset: str) -> None:
    precise, coarse = make(preset), make(preset, precision="bfloat16")
    wanted, found = (learner.targets(batch(), stream()) for learner in (precise, coarse))
    assert found.dtype == torch.float32
    assert torch.allclose(wanted, found, atol=0.05)
    assert not torch.equal(wanted, found)  # the hidden layers were rounded
    assert not torch.equal(found, found.bfloat16().float())  # the values were not
    slopes = []
    for learner in (precise, coarse):
        with learner.cast():
            loss, _ = learner.actor_loss(batch(), stream())
        slopes.append(torch.cat([slope.flatten() for slope in gradients(loss, learner)]))
    assert torch.cosine_similarity(*slopes, dim=0) > 0.99
    assert torch.equal(precise.act(batch().state, None), coarse.act(batch().state, None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "sacc"}, "Unknown preset 'sacc'. Did you mean 'sac'"),
        ({"preset": "rlpd", "subset": 11}, "subset=11 of critics=10"),
        ({"objective": "awr"}, "bootstrap=expectile"),
        ({"tau": 0.0}, "0 < tau"),
        ({"actor_rate": 0.0}, "actor_rate > 0"),
        ({"critic": 3}, "Unknown key 'critic'"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner_config(values)


def test_the_calibrated_constraint_asks_for_returns() -> None:
    with pytest.raises(ConfigError, match="returns"):
        make("cal_ql").update(replace(batch(), returns=None), stream())
