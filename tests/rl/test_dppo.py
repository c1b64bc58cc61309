from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, MissingCapability, SpecMismatch
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.learning.checkpoint import load, save_checkpoint
from robopolicy.policies.dppo import DPPOPolicy
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.dppo import DPPO, DPPOConfig, clip_schedule
from robopolicy.rl.proximal import Rollout
from robopolicy.rollout import PolicyActor
from robopolicy.vector import LaneVectorEnv
from tests.rl.toy_dppo import make
from tests.rl.toy_policy import cloned_policy, toy_policy
from tests.toy_env import toy_task

PUBLISHED_CLIP = [0.00100, 0.00119, 0.00145, 0.00181, 0.00232, 0.00303, 0.00401, 0.00539, 0.00732, 0.01000]
UNET = {"name": "unet1d", "channels": [16, 32], "embedding": 16}
TRANSFORMER = {"name": "transformer", "width": 32, "layers": 1, "heads": 2}


def again(refiner: DPPO, rollout: Rollout, rows: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of chunks `rows`, all stages, computed anew."""
    stage = torch.arange(refiner.stages).repeat(len(rows))
    row = rows.repeat_interleave(refiner.stages)
    found = refiner.log_prob(
        rollout.condition[row], rollout.trace[row, stage], rollout.trace[row, stage + 1], stage
    )
    return found.view(len(rows), refiner.stages)


def in_float64(refiner: DPPO) -> DPPO:
    for module in (refiner.tuned, refiner.policy):
        module.double()
    refiner._tables(torch.device("cpu"), torch.float64)
    return refiner


def test_the_clip_schedule_is_the_published_one() -> None:
    np.testing.assert_allclose(clip_schedule(10, 0.001, 0.01, 3.0), PUBLISHED_CLIP, atol=5e-6)
    assert clip_schedule(1, 0.001, 0.01, 3.0).tolist() == [0.01]


def test_floors_and_means_are_those_of_the_variance_preserving_chain() -> None:
    refiner = make(denoising_steps=20, finetuned_steps=10, spacing="linspace", log_prob_floor=0.2)
    late = slice(10, None)
    sigma = refiner.sampler.sigmas.double()
    keep = 1 / (1 + sigma**2)  # alpha bar of each level
    alpha = keep[:-1] / keep[1:]
    posterior = ((1 - keep[1:]) / (1 - keep[:-1]) * (1 - alpha)).sqrt()
    published = posterior.clamp_min(0.1)
    found = refiner.sampler.deviation / refiner.sampler.scale
    np.testing.assert_allclose(found, published, rtol=1e-9)
    np.testing.assert_allclose(
        refiner.precision, 1 / (posterior.clamp_min(0.2) * (1 + sigma[1:] ** 2).sqrt())[late], rtol=1e-5
    )
    clean, noisy = 0.3, 0.7  # both chains' posterior mean, for one number
    ours = clean + refiner.sampler.carry * (noisy * (1 + sigma[:-1] ** 2).sqrt() - clean)
    c1 = keep[1:].sqrt() * (1 - alpha) / (1 - keep[:-1])
    c2 = alpha.sqrt() * (1 - keep[1:]) / (1 - keep[:-1])
    np.testing.assert_allclose(ours / (1 + sigma[1:] ** 2).sqrt(), c1 * clean + c2 * noisy, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.2, 0.5])
def test_with_less_noise_a_step_is_that_of_ddim_and_floors_hold_for_its_noise_alone(eta: float) -> None:
    floors = {"sampling_floor": 0.08, "log_prob_floor": 0.1}
    refiner = in_float64(make(eta=eta, denoising_steps=10, finetuned_steps=6, **floors))
    condition = refiner._look()[1].double()
    refiner.generator.manual_seed(5)
    drawn = refiner.draw(condition)
    noise = torch.randn((11, 4, 4, 2), generator=torch.Generator().manual_seed(5)).double().clamp(-3, 3)[1:]
    keep = 1 / (1 + refiner.sampler.sigmas**2)  # alpha bar of each level
    raised = []
    for s in range(6):
        k = s + 4
        before, after = keep[k], keep[k + 1]
        spread = eta * ((1 - after) / (1 - before) * (1 - before / after)).sqrt()
        x, next_x = before.sqrt() * drawn.trace[:, s], after.sqrt() * drawn.trace[:, s + 1]
        clean = refiner.tuned.late(condition)(drawn.trace[:, s], refiner.sigma[k].expand(len(x)))
        clean = clean.clamp(-1, 1)
        direction = (x - before.sqrt() * clean) / (1 - before).sqrt()
        mean = after.sqrt() * clean + (1 - after - spread**2).clamp_min(0).sqrt() * direction
        torch.testing.assert_close(next_x, mean + spread.clamp_min(0.08) * noise[k], rtol=1e-9, atol=1e-9)
        density = torch.distributions.Normal(mean, spread.clamp_min(0.1)).log_prob(next_x).clamp(-5, 2)
        torch.testing.assert_close(drawn.log_prob[:, s], density.mean((1, 2)), rtol=1e-9, atol=1e-9)
        raised.append(bool(spread < 0.08))
    assert raised[-1]
    assert not raised[0]


def test_log_probability_is_the_mean_of_normal_densities_over_executed_rows() -> None:
    policy = toy_policy(obs_horizon=2, pred_horizon=8)
    refiner = make(policy)
    condition = refiner._look()[1]
    drawn = refiner.draw(condition)
    stage = torch.full((4,), 2)
    step = stage + refiner.first
    mean = refiner._mean(refiner.tuned.late(condition), drawn.trace[:, 2], step)
    normal = torch.distributions.Normal(
        mean / refiner.sampler.scale[-1], refiner.config.log_prob_floor
    )  # the last level's scale is 1
    expected = normal.log_prob(drawn.trace[:, 3])[:, 1:5].mean((1, 2))
    torch.testing.assert_close(drawn.log_prob[:, 2], expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        refiner.log_prob(condition, drawn.trace[:, 2], drawn.trace[:, 3], stage), drawn.log_prob[:, 2]
    )


def test_rows_that_are_not_executed_do_not_count() -> None:
    refiner = make(toy_policy(obs_horizon=2, pred_horizon=8))
    condition = refiner._look()[1]
    drawn = refiner.draw(condition)
    stage = torch.ones(4, dtype=torch.long)
    before, after = drawn.trace[:, 1], drawn.trace[:, 2].clone()
    reference = refiner.log_prob(condition, before, after, stage)
    after[:, [0, 5, 6, 7]] += 1.0
    assert torch.equal(refiner.log_prob(condition, before, after, stage), reference)
    after[:, 4] += 0.1
    assert not torch.equal(refiner.log_prob(condition, before, after, stage), reference)


@pytest.mark.parametrize("network", [{"name": "mlp", "width": 32, "blocks": 1}, UNET, TRANSFORMER])
def test_first_ratios_are_one(network: dict[str, Any]) -> None:
    refiner = make(toy_policy(network=network))
    rollout, _ = refiner.practise()
    rows = torch.randperm(len(rollout.condition))[:7]
    ratio = (again(refiner, rollout, rows) - rollout.log_prob[rows]).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    before = [p.clone() for p in refiner.actor.parameters()]
    refiner.iteration = refiner.settings.critic_warmup
    assert refiner.update(rollout)["updates"] > 0
    assert not any(torch.equal(a, b) for a, b in zip(before, refiner.actor.parameters(), strict=True))


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_first_ratios_are_exactly_one_in_float64_on_the_same_batch(eta: float) -> None:
    refiner = in_float64(make(eta=eta))
    condition = refiner._look()[1].double()
    drawn = refiner.draw(condition)
    assert drawn.log_prob.dtype == torch.float64
    for s in range(refiner.stages):
        stage = torch.full((len(condition),), s)
        found = refiner.log_prob(condition, drawn.trace[:, s], drawn.trace[:, s + 1], stage)
        assert torch.equal((found - drawn.log_prob[:, s]).exp(), torch.ones_like(found))


@pytest.mark.parametrize("obs_horizon", [1, 2])
def test_a_unet_learns_from_the_eight_rows_of_sixteen_that_are_executed(obs_horizon: int) -> None:
    horizons = {"obs_horizon": obs_horizon, "pred_horizon": 16, "action_horizon": 8}
    refiner = make(toy_policy(network=UNET, **horizons), chunks=3, epochs=1, critic_warmup=0)
    rollout, _ = refiner.practise()
    assert rollout.trace.shape == (12, 4, 16, 2)
    rows = torch.arange(12)
    torch.testing.assert_close(again(refiner, rollout, rows), rollout.log_prob, rtol=0, atol=1e-5)
    first = obs_horizon - 1
    executed = slice(first, first + 8)
    moved = dataclasses.replace(rollout, trace=rollout.trace.clone())
    moved.trace[:, -1] += 1.0
    moved.trace[:, -1, executed] -= 1.0
    torch.testing.assert_close(again(refiner, moved, rows), rollout.log_prob, rtol=0, atol=1e-5)
    for row in (executed.start, executed.stop - 1):
        moved = dataclasses.replace(rollout, trace=rollout.trace.clone())
        moved.trace[:, -1, row] += 0.1
        assert (again(refiner, moved, rows)[:, -1] != rollout.log_prob[:, -1]).all()
    weights = [p.clone() for p in refiner.actor.parameters()]
    assert refiner.update(rollout)["policy_loss"] != 0
    assert not all(torch.equal(a, b) for a, b in zip(weights, refiner.actor.parameters(), strict=True))


@pytest.mark.usefixtures("rounding")
def test_a_base_in_bfloat16_is_refined_in_float32() -> None:
    refiner = make(toy_policy(precision="bfloat16"), critic_warmup=0)
    rollout, _ = refiner.practise()
    assert rollout.trace.dtype == rollout.log_prob.dtype == torch.float32
    rows = torch.arange(7)
    torch.testing.assert_close(again(refiner, rollout, rows), rollout.log_prob[rows], rtol=0, atol=1e-5)
    assert refiner.tuned.config.precision == "float32"


def test_dropout_is_off_while_learning() -> None:
    refiner = make(toy_policy(network={"name": "mlp", "width": 32, "blocks": 1, "dropout": 0.5}))
    rollout, _ = refiner.practise()
    rows = torch.arange(5)
    assert torch.equal(again(refiner, rollout, rows), again(refiner, rollout, rows))


@pytest.mark.parametrize("tuned", [1, 6])
def test_one_step_and_all_steps_can_be_refined(tuned: int) -> None:
    refiner = make(finetuned_steps=tuned, critic_warmup=0)
    row = refiner.advance()
    assert all(math.isfinite(value) for value in row.values())
    assert refiner.clip[-1] == pytest.approx(0.01)
    assert (refiner.tuned.base is None) == (tuned == 6)


def test_each_network_is_asked_only_where_it_counts() -> None:
    refiner = make()
    calls = {"base": 0, "network": 0, "original": 0}

    def count(name: str) -> Any:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    assert refiner.tuned.base is not None
    refiner.tuned.base.register_forward_hook(count("base"))
    refiner.tuned.network.register_forward_hook(count("network"))
    refiner.policy.network.register_forward_hook(count("original"))
    rollout, _ = refiner.practise()
    assert calls == {"base": 0, "network": 5 * 3, "original": 5 * 3}
    refiner.update(rollout)
    assert calls["original"] + calls["base"] == 15
    observation = refiner.practice.view.observation
    calls.update(base=0, network=0)
    refiner.refined().sample(observation)
    assert calls["base"] == calls["network"] == 3


def test_the_denoising_discount_weighs_noisier_steps_less() -> None:
    refiner = make(denoising_discount=0.9)
    np.testing.assert_allclose(refiner.weight, [0.81, 0.9, 1.0], rtol=1e-6)


def test_cloning_keeps_the_policy_near_its_base() -> None:
    def moved(cloning: float) -> float:
        refiner = make(critic_warmup=0, cloning=cloning, actor_rate=1e-3, chunks=10, epochs=3)
        with torch.no_grad():
            for parameter in refiner.actor.parameters():
                parameter.add_(
                    0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
        condition = refiner._look()[1]
        for _ in range(2):
            refiner.advance()
        x, sigma = (
            torch.zeros(len(condition), *refiner.policy.noise_shape),
            torch.full((len(condition),), 0.3),
        )
        gap = refiner.tuned.late(condition)(x, sigma) - refiner.policy.denoiser(condition)(x, sigma)
        return float(gap.detach().square().mean())

    assert moved(1.0) < 0.5 * moved(0.0)


def test_it_resumes_bit_for_bit() -> None:
    whole, first, second = make(), make(), make()
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.load_tensors({name: value.clone() for name, value in first.tensors().items()})
    second.restore(first.state())
    for _ in range(2):
        second.advance()
    for (name, a), b in zip(whole.tensors().items(), second.tensors().values(), strict=True):
        assert torch.equal(a, b), name
    assert whole.state() == second.state()
    assert whole.env_steps == 4 * (2 * 30 + 4 * 4)  # two whole episodes in each lane, and part of one


def test_the_refined_policy_is_saved_and_acts_alike(tmp_path: Any) -> None:
    refiner = make(critic_warmup=0, actor_rate=1e-2)
    refiner.advance()
    refined = refiner.refined()
    save_checkpoint(tmp_path / "policy", refined)
    loaded = load(tmp_path / "policy")
    seen = refiner.practice.view.observation
    for noise in (None, torch.randn(4, 1, *refined.noise_shape)):
        actions = [
            policy.sample(seen, noise=noise, generator=torch.Generator().manual_seed(0)).actions
            for policy in (refined, loaded)
        ]
        np.testing.assert_array_equal(*actions)
    assert isinstance(loaded, DPPOPolicy)
    mixed = torch.tensor([10.0, 0.01, 10.0, 0.01])
    condition, x = refiner._look()[1], torch.randn(4, *refined.noise_shape)
    found = loaded.denoiser(condition)(x, mixed)
    late, early = loaded.late(condition)(x, mixed), loaded.early(condition)(x, mixed)
    torch.testing.assert_close(found, torch.stack([early[0], late[1], early[2], late[3]]))


def test_before_any_update_it_is_the_base() -> None:
    policy = toy_policy(sampler={"name": "ddpm", "steps": 6})
    refiner = make(policy)
    seen = refiner.practice.view.observation
    noise = torch.randn(4, 1, *policy.noise_shape)
    found = refiner.refined().sample(seen, noise=noise).actions
    np.testing.assert_allclose(found, policy.sample(seen, noise=noise).actions, atol=1e-6)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="finetuned_steps must be 1 to denoising_steps = 6, got 7"):
        make(finetuned_steps=7)
    with pytest.raises(ConfigError, match="0 < eta <= 1"):
        make(eta=0.0)
    with pytest.raises(ConfigError, match="Denoising steps must be 1 to 100, got 200"):
        make(denoising_steps=200)
    chainless = toy_policy()
    chainless.capabilities = frozenset({"noise"})  # type: ignore[misc]
    with pytest.raises(MissingCapability, match="lacks chain"):
        make(chainless)
    with pytest.raises(ConfigError, match="resuming its run"):
        make(make().refined())
    other = toy_policy()
    other.spec = dataclasses.replace(other.spec, control_hz=50.0)
    with pytest.raises(SpecMismatch, match="control_hz"):
        make(other)


@pytest.mark.slow
def test_it_makes_an_unreliable_clone_reliable() -> None:
    task = toy_task(horizon=16, env={"speed": 0.2, "reach": 0.06}, noise=0.3)
    base = cloned_policy(task, episodes=12, updates=60)
    envs = LaneVectorEnv(task, 32, chunk=4, success_hold=-1)
    config = DPPOConfig(
        convention=ConventionConfig(), denoising_steps=5, finetuned_steps=3, chunks=16, epochs=5,
        batch_size=500, actor_rate=5e-4, clip=0.03, clip_base=0.03, gamma=0.98,
    )  # fmt: skip
    refiner = DPPO(config, policy=base, envs=envs, seed=0)

    def success() -> float:
        actor = PolicyActor(refiner.refined())
        return evaluate(
            actor, task, episodes=200, block="select", lanes=100, workers=0, progress=False
        ).success_rate

    before = success()
    for _ in range(15):
        refiner.advance()
    assert before < 0.5
    assert success() > before + 0.2
