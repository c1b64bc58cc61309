from __future__ import annotations

import math

import pytest
import torch

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.dsrl import NoiseSteeredConfig, NoiseSteeredPolicy
from robopolicy.registry import to_dict
from robopolicy.rl.authority import noise_authority, truncated_normal
from robopolicy.rl.replay import observations
from tests.policies.toys import generators
from tests.rl.toy_base import LEARNER, astray, practise, refiner
from tests.rl.toy_policy import toy_policy
from tests.toy_env import toy_spec


def steered(**changes: object) -> NoiseSteeredPolicy:
    base = astray()
    config = NoiseSteeredConfig(base=to_dict("policy", base), hidden=(16,), **changes)  # type: ignore[arg-type]
    return NoiseSteeredPolicy(config, spec=toy_spec(), codec=base.codec).eval()


def seen(batch: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(batch, 1, 2, generator=generator) for key in ("position", "goal")}


def test_a_steered_policy_is_the_base_with_the_noise_of_the_actor() -> None:
    policy, observation = steered(deterministic=True), seen()
    squashed = policy.actor(policy.state(observation))[0].tanh()
    noise = 1.5 * squashed.view(5, 1, 4, 2)
    expected = policy.base.sample(observation, noise=noise).actions
    torch.testing.assert_close(policy.sample(observation).actions, expected)


def test_a_run_is_compared_with_its_base_not_with_an_untrained_actor() -> None:
    base = astray()
    made = refiner("dsrl_sac", base, lanes=2, warmup=50, force=True)
    noise = torch.randn(5, 1, *base.noise_shape)
    expected = base.sample(seen(), noise=noise).actions
    assert torch.equal(made.initial().sample(seen(), noise=noise).actions, expected)
    assert not torch.equal(made.refined().sample(seen(), noise=noise).actions, expected)


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("bound", [0.5, 2.5])
def test_noise_never_leaves_its_bound(bound: float, repeat: bool) -> None:
    policy = steered(bound=bound, repeat=repeat)
    with torch.no_grad():
        policy.actor.layers[-1].bias.fill_(20.0)
    asked: list[torch.Tensor] = []
    inner = policy.base.sample

    def spy(observation: object, *, n: int, noise: torch.Tensor) -> object:
        asked.append(noise)
        return inner(observation, n=n, noise=noise)  # type: ignore[arg-type]

    policy.base.sample = spy  # type: ignore[method-assign, assignment]
    policy.sample(seen(), n=7, noise=100 * torch.randn(5, 7, 4, 2))
    assert asked[0].shape == (5, 7, 4, 2)
    assert asked[0].abs().max() <= bound
    assert asked[0].abs().max() > 0.99 * bound
    assert torch.equal(asked[0], asked[0][:, :, :1].expand_as(asked[0])) is repeat


def test_a_row_does_not_depend_on_its_batch() -> None:
    policy, observation = steered(), seen()
    whole = policy.sample(observation, n=2, generator=generators(1, 2, 3, 4, 5)).actions
    alone = {key: value[1:2] for key, value in observation.items()}
    found = policy.sample(alone, n=2, generator=generators(2)).actions
    torch.testing.assert_close(found[0], whole[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("repeat", [False, True])
def test_actions_of_the_actor_and_noise_go_there_and_back(repeat: bool) -> None:
    policy = steered(repeat=repeat)
    squashed = 2 * torch.rand(6, policy.action_size) - 1
    torch.testing.assert_close(policy.from_noise(policy.to_noise(squashed)), squashed)


@pytest.mark.parametrize("method", ["dsrl", "dsrl_sac"])
def test_practised_noise_keeps_to_the_bound_too(method: str) -> None:
    made = refiner(method, astray(), lanes=4, warmup=100, bound=0.7, update_ratio=0.3)
    asked: list[float] = []
    inner = made.base.sample

    def spy(observation: object, *, noise: torch.Tensor) -> object:
        asked.append(float(noise.abs().max()))
        return inner(observation, noise=noise)

    made.base.sample = spy
    practise(made, 250)
    assert 0.6 < max(asked) <= 0.7  # clipped while warming, drawn by the actor, distilled, in targets


def test_truncated_noise_has_the_moments_it_should() -> None:
    drawn = truncated_normal((200_000,), 1.5, torch.Generator().manual_seed(0), torch.device("cpu"))
    density, mass = math.exp(-1.125) / math.sqrt(2 * math.pi), math.erf(1.5 / math.sqrt(2))
    assert drawn.abs().max() <= 1.5
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 - 2 * 1.5 * density / mass, abs=0.01)


def test_authority_is_the_spread_that_noise_makes() -> None:
    base = astray(spread=0.4)
    found = noise_authority(base, seen(), 1e3, torch.Generator().manual_seed(0))
    # Nothing is cut off at so large a bound: N(0, 1) times 0.4, over half a range of 1.
    torch.testing.assert_close(found, torch.tensor([0.4, 0.4]), rtol=0.15, atol=0.0)
    base.codec.get_buffer("action_high")[1] = -1.0  # the data does not vary there
    assert noise_authority(base, seen(), 1.5, torch.Generator()).isnan().tolist() == [False, True]


def test_without_authority_it_wants_to_be_forced(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"authority 0\.00\d\d on average, below 0\.02.*force=true"):
        refiner("dsrl", astray(spread=0.005), lanes=4)
    capsys.readouterr()
    refiner("dsrl", astray(spread=0.005), lanes=4, force=True)
    printed = capsys.readouterr().out
    assert "Noise authority (spread of executed actions over the data's half range): 0.00" in printed
    assert "Warning: The noise hardly moves" in printed
    still = astray()
    still.codec.get_buffer("action_high")[:] = -1.0
    with pytest.raises(ConfigError, match="No action of this policy's data varies"):
        refiner("dsrl", still, lanes=4, force=True)


@pytest.mark.parametrize("method", ["dsrl", "dsrl_sac"])
def test_a_policy_without_noise_is_refused_by_name(method: str) -> None:
    with pytest.raises(MissingCapability, match="Mute lacks noise"):
        refiner(method, astray("test_mute"), lanes=4)


def test_the_noise_critics_become_the_action_critics_of_what_the_base_makes_of_noise() -> None:
    made = refiner(
        "dsrl", astray(), lanes=4, warmup=100, update_ratio=1.0, distill_ratio=1.0,
        learner={**LEARNER, "critics": 3},
    )  # fmt: skip
    practise(made, 160)
    generator = torch.Generator().manual_seed(0)
    made._distill(500, generator)
    observation = observations(made.batch(200, generator))
    state = made.steered.state(observation)
    noise = truncated_normal((200, made.steered.action_size), 1.5, generator, state.device)
    squashed = noise / 1.5
    with torch.no_grad():
        wanted = made.action_critic(state, made._encoded(made.act(observation, squashed), observation))
        found = made.learner.critic(state, squashed)
        error = (found - wanted).square().mean(1)
        crossed = (found - wanted.roll(1, 0)).square().mean(1)
    assert (error < 0.4 * wanted.var(1)).all()
    assert (error < crossed).all()  # each member follows its own


def test_a_diffusion_policy_can_be_steered() -> None:
    made = refiner("dsrl", toy_policy(), lanes=4, warmup=50, update_ratio=0.3, force=True)
    rows = practise(made, 150)
    assert "distill_loss" in rows[-1]
    assert made.refined().sample(seen(2), n=3).actions.shape == (2, 3, 4, 2)
