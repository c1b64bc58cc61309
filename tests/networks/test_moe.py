from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.networks.moe import Experts, MoEConfig, active_parameters, imbalance
from robopolicy.networks.residual import BlockResidual
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from tests.networks.test_transformer import SIZES, inputs
from tests.networks.test_transformer import make as network
from tests.policies.toys import check_two_modes, learn_two_modes, make, two_modes

SMALL: dict[str, Any] = {"name": "moe", "width": 16, "layers": 2, "heads": 2, "experts": 4}
DENSE = {"name": "transformer", "width": 16, "layers": 2, "heads": 2}


def experts(**changes: Any) -> Experts:
    """A layer whose router has opinions."""
    torch.manual_seed(0)
    made = Experts(MoEConfig(**{"width": 16, "heads": 2, "experts": 4, **changes}))
    for parameter in made.router.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def by_hand(layer: Experts, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Token by token."""
    found = torch.zeros_like(tokens)
    for b in range(len(tokens)):
        for t in range(tokens.shape[1]):
            chance = layer.router(torch.cat([tokens[b, t], context[b]])).softmax(-1)
            for e in chance.argsort(descending=True)[: layer.chosen]:
                found[b, t] += chance[e] * layer.experts[e](tokens[b, t])
    return found


@pytest.mark.parametrize("chosen", [1, 2, 4])
@pytest.mark.parametrize("training", [True, False])
def test_tokens_go_through_the_likeliest_experts_weighted(chosen: int, training: bool) -> None:
    layer = experts(chosen=chosen).double().train(training)
    tokens, context = torch.randn(3, 5, 16).double(), torch.randn(3, 16).double()
    torch.testing.assert_close(
        layer(tokens, context), by_hand(layer, tokens, context), rtol=1e-6, atol=1e-6
    )  # weights are made in float32


def test_one_expert_is_the_dense_transformer() -> None:
    dense, sparse = network(DENSE), network({**SMALL, "experts": 1, "chosen": 1})
    renamed = {
        name.replace("feed_forward", "feed_forward.experts.0"): value
        for name, value in dense.state_dict().items()
    }
    missing, unexpected = sparse.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all("router" in name for name in missing)
    for training in (True, False):
        assert torch.equal(dense.train(training)(*inputs()), sparse.train(training)(*inputs()))


def test_every_expert_that_was_chosen_learns_and_no_other() -> None:
    layer = experts(experts=16, chosen=2)
    tokens, context = torch.randn(1, 4, 16), torch.randn(1, 16)
    chance = layer.router(torch.cat([tokens, context[:, None].expand_as(tokens)], -1)).softmax(-1)
    chosen = set(chance.topk(2).indices.flatten().tolist())
    assert len(chosen) < 16
    layer(tokens, context).square().sum().backward()
    for number, expert in enumerate(layer.experts):
        gradients = [p.grad for p in expert.parameters()]
        assert all(g is not None and bool(g.any()) == (number in chosen) for g in gradients)
    assert all(p.grad is not None and p.grad.any() for p in layer.router.parameters())


def test_rows_are_independent_to_the_last_bit_where_a_policy_acts() -> None:
    """Whatever else is routed where: products over few rows round differently (see `BLOCK`)."""
    acting = network({**SMALL, "width": 32}).eval()
    torch.manual_seed(1)
    x, level, condition = torch.randn(7, 8, 3), torch.rand(7), torch.randn(7, 2, 5)
    with torch.no_grad():
        whole = acting(x, level, condition)[0]
        for _ in range(40):
            others = torch.randn(6, 8, 3), torch.rand(6), torch.randn(6, 2, 5)
            mixed = [torch.cat([a[:1], b]) for a, b in zip((x, level, condition), others, strict=True)]
            assert torch.equal(acting(*mixed)[0], whole)


def test_bfloat16_stays_close() -> None:
    """With all experts chosen: rounding may change which two are the likeliest."""
    acting = network({**SMALL, "chosen": 4}).eval()
    exact = acting(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = acting(*inputs()).float()
    assert (exact - rounded).abs().mean() < 0.05 * exact.abs().mean()


def test_action_tokens_see_the_past_alone() -> None:
    """Routers too: they read the first observation and their token."""
    causal = network(SMALL, obs_horizon=4).eval()
    x, level, _ = inputs(1)
    condition = torch.randn(1, 4, 5)
    whole = causal(x, level, condition)[0]
    for t in range(1, 4):
        changed = condition.clone()
        changed[:, t] += 1
        moved = (causal(x, level, changed)[0] != whole).any(-1)
        assert not moved[:t].any()
        assert moved[t:].all()


def test_the_first_observation_decides_routes() -> None:
    layer, tokens = experts(chosen=1), torch.randn(1, 1, 16)
    contexts = 3 * torch.randn(64, 16)
    seen = torch.cat([tokens.expand(64, 1, 16), contexts[:, None]], -1)
    assert len(layer.router(seen).argmax(-1).unique()) > 1


def test_parameters_and_those_that_are_active() -> None:
    """Two experts of half the width are as large as a dense layer, but for one more bias at the end."""
    dense = build("network", DENSE, **SIZES)
    sparse = build("network", SMALL, **SIZES)
    total, active = sum(p.numel() for p in sparse.parameters()), active_parameters(sparse)
    router = 2 * 16 * 4 + 4 + 4 * 4 + 4
    assert active == sum(p.numel() for p in dense.parameters()) + 2 * (router + 16)
    assert total == active + 2 * 2 * (16 * 32 + 32 + 32 * 16 + 16)
    assert active_parameters(dense) == sum(p.numel() for p in dense.parameters())


def test_imbalance_in_closed_form() -> None:
    even = torch.full((6, 5, 4), 0.25)
    sure = torch.eye(4)[[0, 1, 2, 3]][:, None].expand(4, 5, 4)
    stuck = torch.eye(4)[[2, 2, 2, 2]][:, None].expand(4, 5, 4)
    assert float(imbalance(sure)) == pytest.approx(0.0, abs=1e-6)
    assert float(imbalance(stuck)) == pytest.approx(math.log(4))
    assert float(imbalance(even)) == pytest.approx(math.log(4))
    pairs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])[:, None]
    assert float(imbalance(pairs)) == pytest.approx(math.log(2))


def test_balancing_brings_idle_experts_back() -> None:
    layer = experts(chosen=1, balance=1.0)
    layer.router[-1].bias.data = torch.tensor([4.0, 0.0, 0.0, 0.0])
    tokens, context = torch.randn(64, 2, 16), torch.randn(64, 16)
    seen = torch.cat([tokens, context[:, None].expand_as(tokens)], -1)

    def used() -> torch.Tensor:
        return layer.router(seen).argmax(-1).flatten().bincount(minlength=4) / 128

    assert used()[0] > 0.6
    optimizer = torch.optim.Adam(layer.router.parameters(), 1e-2)
    for _ in range(150):
        loss = imbalance(layer.router(seen).softmax(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert used().max() < 0.45
    assert used().min() > 0.1


def batch(policy: Policy) -> Any:
    generator = torch.Generator().manual_seed(0)
    shapes = policy.spec.observations
    seen = {key: torch.zeros(16, policy.obs_horizon, *o.shape) for key, o in shapes.items()}
    return two_modes(16, generator, seen)


def losses(balance: float, *, training: bool = True, name: str = "diffusion") -> tuple[float, dict[str, Any]]:
    policy = make(name, network={**SMALL, "balance": balance}).train(training)
    loss, logs = policy(batch(policy), torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in policy.parameters())
    return float(loss.detach()), logs


@pytest.mark.parametrize("name", ["diffusion", "beso", "energy_denoising"])
def test_the_training_loss_holds_the_imbalance_of_every_layer(name: str) -> None:
    without, logs = losses(0.0, name=name)
    assert "balance" not in logs
    with_it, logs = losses(0.1, name=name)
    assert float(logs["balance"].detach()) == pytest.approx(0.1 * 2 * math.log(4), rel=0.05)
    assert with_it == pytest.approx(without + float(logs["balance"].detach()), rel=1e-5)


def test_the_validation_loss_is_the_policy_s_alone() -> None:
    loss, logs = losses(0.1, training=False)
    assert "balance" not in logs
    assert loss == losses(0.0, training=False)[0]


def test_balancing_reaches_the_routers_alone() -> None:
    policy = make("diffusion", network={**SMALL, "balance": 1.0})
    _, logs = policy(batch(policy), torch.Generator().manual_seed(0))
    parameters = dict(policy.named_parameters())
    found = torch.autograd.grad(logs["balance"], list(parameters.values()), allow_unused=True)
    moved = {name for name, g in zip(parameters, found, strict=True) if g is not None and g.any()}
    assert {name for name in parameters if "router" in name} <= moved
    assert not any("experts" in name for name in moved if "layers.1" in name)


def test_experts_join_a_frozen_base_of_experts() -> None:
    base, residual = network(SMALL, condition_size=3), network(SMALL)
    both = BlockResidual(base, residual, horizon=8, obs_horizon=2, sizes=(3, 3, 5))
    assert all(p.requires_grad for name, p in residual.named_parameters() if "experts" in name)
    x, level, condition = inputs()
    condition = torch.cat([condition[..., :3], condition], -1)
    assert torch.equal(both.eval()(base.eval(), x, level, condition), base(x, level, condition[..., :3]))


@pytest.mark.parametrize(
    "changes", [{"chosen": 0}, {"chosen": 5}, {"chosen": 3}, {"balance": -1.0}, {"width": 10}]
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="moe needs"):
        build("network", {**SMALL, **changes}, **SIZES)


@pytest.mark.slow
def test_it_learns_two_modes() -> None:
    """As the transformer; see test_families for the bound."""
    policy = make("diffusion", network={**SMALL, "width": 32, "layers": 1})
    check_two_modes(learn_two_modes(policy, updates=200), coherent=0.8)
