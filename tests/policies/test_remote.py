from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy import load
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError, MissingCapability, SpecMismatch
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Policy, Provenance, Request
from robopolicy.policies.remote import RemoteConfig, RemotePolicy
from robopolicy.registry import build, to_dict
from robopolicy.rollout import PolicyActor
from robopolicy.serving.announcement import KEY
from robopolicy.serving.client import ServerError, VersionChanged
from robopolicy.serving.policy import ServedPolicy, weights_version
from robopolicy.serving.server import running
from robopolicy.spec import TEXT, ActionSpec, ObservationSpec, Spec
from robopolicy.steering.value_guided import ValueGuided
from tests.policies.toys import NETWORK, SPEC, generators, make, observation
from tests.rl.toy_base import astray, practise, refiner
from tests.serving.models import openpi_server
from tests.steering.value_toys import critic, first_entry
from tests.toy_env import toy_spec, toy_task

DIFFUSION = {"network": NETWORK, "train_steps": 20, "sampler": {"name": "ddim", "steps": 3}}


def fitted(name: str = "diffusion", **settings: Any) -> Policy:
    """With statistics that are not the identity."""
    policy = make(name, **settings)
    for buffer in ("action_center", "action_scale"):
        policy.codec.get_buffer(buffer).copy_(torch.tensor([0.3, 1.7]))
    return policy


def test_it_is_the_local_policy_bit_for_bit() -> None:
    local, seen = fitted(**DIFFUSION), observation(4)
    noise = np.random.default_rng(1).normal(size=(4, 3, 8, 2)).astype(np.float32)
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        assert (remote.spec, remote.noise_shape, remote.obs_horizon) == (local.spec, (8, 2), 2)
        for options in ({"noise": noise}, {"generator": generators(1, 2, 3, 4)}):
            mine = local.sample(seen, n=3, **copy.deepcopy(options))
            theirs = remote.sample(seen, n=3, **copy.deepcopy(options))
            np.testing.assert_array_equal(theirs.actions, mine.actions)
            np.testing.assert_array_equal(theirs.latent, mine.latent)
            assert (theirs.calls, theirs.requests) == (mine.calls, 1)  # type: ignore[attr-defined]
            assert 0 < theirs.timing["server"] <= theirs.timing["sample"]
        tensors = {key: torch.as_tensor(value) for key, value in seen.items()}
        found = remote.sample(tensors, n=3, noise=noise)
        assert isinstance(found.actions, torch.Tensor)
        torch.testing.assert_close(
            found.actions, local.sample(tensors, n=3, noise=noise).actions, rtol=0, atol=0
        )
        for key, value in local.codec.state_dict().items():
            torch.testing.assert_close(remote.codec.state_dict()[key], value, rtol=0, atol=0)


def test_pictures_and_instructions_arrive() -> None:
    picture = ObservationSpec(shape=(16, 16, 3), dtype="uint8", kind="image")
    spec = Spec(
        observations={"camera": picture, "state": ObservationSpec(shape=(3,)), "instruction": TEXT},
        action=SPEC.action,
        control_hz=10,
    )
    vision = {"name": "vision", "backbone": "small", "channels": [16, 16], "keypoints": 4, "features": 6}
    local = make("diffusion", spec=spec, encoder={**vision, "text": {"name": "hashed"}}, **DIFFUSION)
    rng = np.random.default_rng(0)
    seen: dict[str, Any] = {
        "camera": rng.integers(0, 255, (2, 2, 16, 16, 3), np.uint8),
        "state": rng.normal(size=(2, 2, 3)).astype(np.float32),
        "instruction": ["stack the cubes", "wave"],
    }
    with running(ServedPolicy(local)) as address:
        mine, theirs = (
            policy.sample(seen, generator=generators(1, 2)).actions for policy in (local, load(address))
        )
    np.testing.assert_array_equal(mine, theirs)


def test_seeds_make_what_generators_with_these_seeds_make() -> None:
    ddpm = {**DIFFUSION, "sampler": {"name": "ddpm", "steps": 5}}
    local, seen = fitted(**ddpm), observation(3)
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        assert isinstance(remote, RemotePolicy)
        assert not remote.client.said().noise_is_all
        reply = remote.client.sample(seen, n=2, seeds=[7, 8, 9])
        mine = local.sample(seen, n=2, generator=generators(7, 8, 9))
        np.testing.assert_array_equal(reply.actions, mine.actions)
        np.testing.assert_array_equal(reply.arrays["latent"], mine.latent)
        one, again = (remote.sample(seen, generator=generators(1, 2, 3)) for _ in range(2))
        np.testing.assert_array_equal(one.actions, again.actions)
        turned = {key: value[::-1].copy() for key, value in seen.items()}
        other = remote.sample(turned, generator=generators(3, 2, 1))
        np.testing.assert_allclose(other.actions[::-1], one.actions, rtol=1e-5, atol=1e-5)
        assert (remote.sample(seen).actions != remote.sample(seen).actions).any()
        one, again = (remote.sample(seen, generator=torch.Generator().manual_seed(5)) for _ in range(2))
        np.testing.assert_array_equal(one.actions, again.actions)


@pytest.mark.parametrize("name", ["gaussian", "gmm"])
def test_densities_come_along(name: str) -> None:
    local, seen = fitted(name, width=32, blocks=1), observation(2)
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        reply = remote.client.sample(seen, n=2, seeds=[1, 2])  # type: ignore[union-attr]
        mine = local.sample(seen, n=2, generator=generators(1, 2))
        np.testing.assert_array_equal(reply.actions, mine.actions)
        np.testing.assert_array_equal(reply.arrays["log_prob"], mine.log_prob)
        assert remote.sample(seen, n=2).log_prob.shape == (2, 2)


def test_evaluating_it_gives_the_local_policys_episodes() -> None:
    local = make("diffusion", spec=toy_spec(), **DIFFUSION)
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        mine, theirs = (
            evaluate(PolicyActor(policy), toy_task(), episodes=6, lanes=3, workers=0, progress=False)
            for policy in (local, remote)
        )
    assert mine.rows == theirs.rows


def test_what_the_checkpoint_says_of_itself_arrives() -> None:
    local = make("diffusion", **DIFFUSION)
    config = {"policy": {"name": "diffusion"}, "list": [1, None, "inf"]}
    local.provenance = Provenance(
        task=toy_task(), used_seeds=tuple(range(5000)), fingerprint="abc", step=7, config=config
    )
    with running(ServedPolicy(local)) as address:
        assert load(address).provenance == local.provenance


def test_other_weights_are_another_version() -> None:
    local = fitted(**DIFFUSION)
    version = weights_version(local)
    assert weights_version(copy.deepcopy(local)) == version
    assert weights_version(local.with_sampler({"steps": 2})) != version
    with torch.no_grad():
        next(local.parameters()).add_(1e-3)
    assert weights_version(local) != version


def test_its_checkpoint_holds_the_address_and_insists_on_the_weights(tmp_path: Path) -> None:
    local, seen = fitted(**DIFFUSION), observation(2)
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        save_checkpoint(tmp_path / "remote", remote)
        back = load(tmp_path / "remote")
        np.testing.assert_array_equal(
            back.sample(seen, generator=generators(1, 2)).actions,
            local.sample(seen, generator=generators(1, 2)).actions,
        )
        said = to_dict("policy", remote)
        assert said["version"] == weights_version(local)
        with pytest.raises(
            VersionChanged, match=r"version \w+ of its weights; this policy was made for version 00"
        ):
            build("policy", {**said, "version": "00"}, spec=remote.spec, codec=remote.codec)
        with pytest.raises(SpecMismatch, match="pred_horizon: 8 on the server, 12 here"):
            build("policy", {**said, "pred_horizon": 12}, spec=remote.spec, codec=remote.codec)
        other = Spec(
            observations={**SPEC.observations, "state": ObservationSpec(shape=(4,))},
            action=SPEC.action,
            control_hz=10,
        )
        with pytest.raises(SpecMismatch, match="'state': shape wanted"):
            build("policy", said, spec=other, codec=Codec(CodecConfig(), other))
    with pytest.raises(ServerError, match="No policy server"):
        build("policy", {**said, "patience_s": 0.1}, spec=remote.spec, codec=remote.codec)


@pytest.mark.parametrize("name", ["dsrl", "residual"])
def test_policies_may_stand_on_it(name: str) -> None:
    """What DSRL and residual RL make of a base."""
    local, seen = fitted(**DIFFUSION), observation(2)
    with running(ServedPolicy(local)) as address:
        made: list[Any] = []
        for base in (local, load(address)):
            config = {"name": name, "base": to_dict("policy", base)}
            made.append(build("policy", config, spec=base.spec, codec=base.codec))
            made[-1].base.load_state_dict(base.state_dict())
        with torch.no_grad():
            made[0].actor.apply(lambda layer: [p.normal_() for p in layer.parameters(recurse=False)])
        made[1].actor.load_state_dict(made[0].actor.state_dict())
        mine, theirs = (policy.sample(seen, generator=generators(1, 2)).actions for policy in made)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert (mine != local.sample(seen, generator=generators(1, 2)).actions).any()


ARM = Spec(
    observations={
        "camera": ObservationSpec(shape=(4, 4, 3), dtype="uint8", kind="image"),
        "joints": ObservationSpec(shape=(2,)),
        "instruction": TEXT,
    },
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
NAMES = {"camera": "observation/image", "joints": "observation/state", "instruction": "prompt"}


def arm(batch: int) -> dict[str, Any]:
    """Observations for `ARM`, one step of history."""
    rng = np.random.default_rng(0)
    return {
        "camera": rng.integers(0, 255, (batch, 1, 4, 4, 3), np.uint8),
        "joints": rng.normal(size=(batch, 1, 2)).astype(np.float32),
        "instruction": ["fold the towel"] * batch,
    }


def foreign(address: str, **changes: Any) -> RemotePolicy:
    settings: dict[str, Any] = {"address": address, "pred_horizon": 4, "action_horizon": 2, "keys": NAMES}
    return RemotePolicy(RemoteConfig(**{**settings, **changes}), spec=ARM, codec=Codec(CodecConfig(), ARM))


def openpi(request: dict[str, Any]) -> dict[str, Any]:
    """A policy as openpi serves it."""
    assert request.keys() == {*NAMES.values()}
    assert request["observation/image"].shape == (4, 4, 3)
    assert request["prompt"] == "fold the towel"
    return {"actions": np.tile(request["observation/state"], (4, 1)).astype(np.float64)}


def test_an_unmodified_openpi_server_is_described_by_its_caller(tmp_path: Path) -> None:
    with openpi_server(openpi, {"anything": "else"}) as address:
        with pytest.raises(ConfigError, match=r"does not announce spec and horizons.*docs/serving.md"):
            load(address)
        policy = foreign(address)
        sample = policy.sample(arm(2), n=3)
        assert sample.requests == 6
        np.testing.assert_array_equal(sample.actions[1, 2, 3], arm(2)["joints"][1, 0])
        with pytest.raises(MissingCapability, match=r"does not accept 'noise'.*add \{\"robopolicy\""):
            policy.require("noise")
        with pytest.raises(MissingCapability, match="does not accept 'noise'"):
            policy.sample(arm(1), noise=np.zeros((1, 1, 4, 2)))
        with pytest.raises(MissingCapability, match="lacks chain"):
            policy.sample(arm(1), record=True)
        with pytest.raises(SpecMismatch, match=r"replied with chunks \[4, 2\], expected \[6, 2\]"):
            foreign(address, pred_horizon=6).sample(arm(1))
        save_checkpoint(tmp_path / "towel", policy)
        assert load(tmp_path / "towel").sample(arm(1)).actions.shape == (1, 1, 4, 2)


def test_texts_reach_the_server_through_policies_around_it() -> None:
    with openpi_server(openpi) as address:
        policy = foreign(address)
        seen: dict[str, Any] = {**arm(2), "instruction": policy.tokens(["fold the towel"] * 2)}
        assert policy.tokens(["faltet das Tüchlein"]).shape == policy.tokens([""]).shape
        tensors = {key: torch.as_tensor(value) for key, value in seen.items()}
        made = policy.generate(tensors, Request(torch.zeros(2, 3, 4, 2), None))
        assert policy.client.requests == 6
        expected = tensors["joints"].expand(2, 4, 2).repeat_interleave(3, 0)  # the codec changes nothing
        torch.testing.assert_close(made.code, expected)
        with pytest.raises(ConfigError, match="has 600 bytes, at most 512"):
            policy.tokens(["x" * 600])


def test_dsrl_refines_it_as_it_refines_the_local_one() -> None:
    local = astray()
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        settings = {"lanes": 4, "warmup": 20, "update_ratio": 0.3}
        made = [refiner("dsrl_sac", base, **settings) for base in (local, remote)]
        before = {key: value.clone() for key, value in made[0].steered.actor.state_dict().items()}
        for one in made:
            practise(one, 100)
        learned, over_the_wire = (one.steered.actor.state_dict() for one in made)
        for key, value in learned.items():
            torch.testing.assert_close(over_the_wire[key], value, rtol=1e-4, atol=1e-5)
        assert any((before[key] != value).any() for key, value in learned.items())
        assert made[1].base.client.requests > 5


def test_dsrl_says_what_a_server_without_noise_must_announce() -> None:
    with openpi_server(lambda request: {"actions": np.zeros((4, 2))}) as address:
        config = RemoteConfig(address=address, pred_horizon=4, action_horizon=4)
        policy = RemotePolicy(config, spec=toy_spec(), codec=Codec(CodecConfig(), toy_spec()))
        with pytest.raises(MissingCapability, match=r"does not accept 'noise'.*that can, says so"):
            refiner("dsrl", policy, lanes=2)


def test_values_guide_a_servers_policy_as_they_guide_the_local_one() -> None:
    local = make("diffusion", spec=toy_spec(), **DIFFUSION)
    seen = observation(3, spec=toy_spec())
    settings: dict[str, Any] = {"candidates": 4, "rule": "argmax"}
    with running(ServedPolicy(local)) as address:
        remote = load(address)
        mine, theirs = (
            ValueGuided.of(policy, critic(), **settings).sample(seen, generator=generators(1, 2, 3)).actions
            for policy in (local, remote)
        )
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-6)
        assert (mine != local.sample(seen, generator=generators(1, 2, 3)).actions).any()


def test_values_guide_an_unmodified_server_with_a_request_for_every_candidate() -> None:
    count = itertools.count()
    spec, first = toy_spec(), {key: value[:, :1] for key, value in observation(3, spec=toy_spec()).items()}
    config = {"pred_horizon": 4, "action_horizon": 4}
    with openpi_server(lambda request: {"actions": np.full((4, 2), next(count) % 4 / 4)}) as address:
        policy = RemotePolicy(
            RemoteConfig(address=address, **config), spec=spec, codec=Codec(CodecConfig(), spec)
        )
        guided = ValueGuided.of(policy, critic(first_entry, obs_horizon=1), candidates=4, rule="argmax")
        np.testing.assert_array_equal(guided.sample(first).actions, np.full((3, 1, 4, 2), 0.75))
        assert policy.client.requests == 12


def test_a_server_that_announces_noise_can_be_steered() -> None:
    def infer(request: dict[str, Any]) -> dict[str, Any]:
        noise = request.pop(KEY)["noise"]
        return {"actions": openpi(request)["actions"] + noise[:, :2]}

    said = {KEY: {"protocol": 1, "accepts": ["noise"], "noise_shape": [4, 3], "noise_is_all": True}}
    with openpi_server(infer, said) as address:
        policy = foreign(address)
        policy.require("noise")
        assert policy.noise_shape == (4, 3)
        noise = np.random.default_rng(0).normal(size=(2, 2, 4, 3)).astype(np.float32)
        found = policy.sample(arm(2), n=2, noise=noise).actions
        np.testing.assert_allclose(found, arm(2)["joints"][:, :, None] + noise[..., :2], rtol=1e-6)
        one, again = (policy.sample(arm(2), generator=generators(1, 2)).actions for _ in range(2))
        np.testing.assert_array_equal(one, again)
        with pytest.raises(ConfigError, match=r"noise must be \[2, 2, 4, 3\]"):
            policy.sample(arm(2), n=2, noise=noise[..., :2])


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="an address is ws://"):
        RemoteConfig(address="127.0.0.1:8000")
    with pytest.raises(ConfigError, match="timeout_s"):
        RemoteConfig(address="ws://a", timeout_s=0.0)
    with openpi_server(openpi) as address, pytest.raises(ConfigError, match="Unknown observation 'cam'"):
        foreign(address, keys={"cam": "x"})
