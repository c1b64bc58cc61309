"""The way from a policy's chunks to a critic's, to the last bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.rl.convention import ConventionConfig
from robopolicy.spec import INSTRUCTION, TEXT, Spec
from robopolicy.steering.judge import Judge
from robopolicy.values.data import Transitions
from tests.rl.toy_policy import NETWORK
from tests.steering.value_toys import critic, fitted, seen
from tests.toy_env import toy_spec


def policy(spec: Spec | None = None, **changes: object) -> Policy:
    spec = spec or toy_spec()
    torch.manual_seed(0)
    config = {
        "name": "diffusion", "obs_horizon": 2, "pred_horizon": 8, "action_horizon": 4, "network": NETWORK,
        "sampler": {"name": "ddim", "steps": 3}, **changes,
    }  # fmt: skip
    made = build("policy", config, spec=spec, codec=fitted(spec, 3))
    assert isinstance(made, Policy)
    return made.eval()


def test_an_executed_chunk_looks_to_the_critic_as_it_would_in_its_training(tmp_path: Path) -> None:
    # Executed, recorded in a store and read as a transition: the same numbers, bit for bit.
    acting, valuing = policy(), critic()
    judge = Judge(acting, valuing)
    now = seen(1, obs_horizon=2)
    sample = acting.sample({k: torch.as_tensor(v) for k, v in now.items()}, noise=torch.randn(1, 1, 8, 2))
    tensors = {key: torch.as_tensor(value) for key, value in now.items()}
    code = acting.codec.encode_action(sample.actions[:, 0].double(), tensors)
    bound = judge.bind(tensors, 1)
    given = bound.of_actions(sample.actions[:, 0])
    executed = sample.actions[0, 0, 1:5].numpy()
    store = EpisodeStore.create(tmp_path / "a.zarr", toy_spec())
    rows = {key: value[0, 1:].repeat(4, 0) for key, value in now.items()}
    store.append({**rows, "action": executed}, success=False)
    data = Transitions(
        [store], toy_spec(), ConventionConfig(terminate=True), obs_horizon=1, action_horizon=4, gamma=0.9
    )
    batch, _, _ = data.gather(torch.tensor([0]))
    trained = valuing.encode(batch.action, batch.observation)
    assert torch.equal(given, trained)
    assert torch.equal(bound.encode(code), trained)  # a code of full precision loses nothing
    assert torch.equal(bound.state, valuing.state(batch.observation))


def test_recorded_actions_survive_the_way_through_the_policys_code() -> None:
    acting, valuing = policy(), critic()
    tensors = {key: torch.as_tensor(value) for key, value in seen(200, obs_horizon=2).items()}
    actions = torch.rand(200, 8, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    judge = Judge(acting, valuing)
    recent = {key: value[:, -1:] for key, value in tensors.items()}
    trained = valuing.encode(actions[:, 1:5], recent)
    bound = judge.bind(tensors, 1)
    assert torch.equal(bound.encode(acting.codec.encode_action(actions.double(), tensors)), trained)
    rounded = bound.encode(acting.codec.encode_action(actions, tensors))
    torch.testing.assert_close(rounded, trained, rtol=0, atol=1e-6)


def test_codecs_differ_and_rows_are_those_that_are_executed() -> None:
    acting, valuing = policy(), critic()
    tensors = {key: torch.as_tensor(value) for key, value in seen(1, obs_horizon=2).items()}
    actions = torch.linspace(-0.5, 0.5, 8)[None, :, None].expand(1, 8, 2)
    bound = Judge(acting, valuing).bind(tensors, 1)
    recent = {key: value[:, -1:] for key, value in tensors.items()}
    assert torch.equal(bound.of_actions(actions), valuing.encode(actions[:, 1:5], recent))
    own = acting.codec.encode_action(actions, tensors)[:, 1:5].flatten(1)
    assert not torch.allclose(bound.of_actions(actions), own, atol=1e-2)


def test_a_critic_may_see_more_and_read_other_words_than_the_policy() -> None:
    both = dataclasses.replace(toy_spec(), observations={**toy_spec().observations, INSTRUCTION: TEXT})
    sees = both.select(["position", INSTRUCTION])
    text = {"name": "hashed", "size": 4}
    acting = policy(sees, encoder={"name": "state", "text": {**text, "buckets": 16}})
    valuing = critic(spec=both, encoder={"name": "state", "text": {**text, "buckets": 50}})
    judge = Judge(acting, valuing)
    assert judge.spec.observations.keys() == {"position", "goal", INSTRUCTION}
    words = ["go to the goal", "stay"]
    now = {key: torch.as_tensor(value) for key, value in seen(2, obs_horizon=2).items()}
    now[INSTRUCTION] = judge.tokens(words)
    ours, theirs = judge.of_policy(now), judge.of_critic(now)
    assert ours.keys() == sees.observations.keys()
    assert torch.equal(ours[INSTRUCTION], acting.tokens(words))
    assert torch.equal(theirs[INSTRUCTION], valuing.tokens(words))
    assert theirs["goal"].shape == (2, 1, 2)


def test_what_does_not_fit_together_is_refused() -> None:
    acting = policy()
    faster = dataclasses.replace(toy_spec(), control_hz=30.0)
    with pytest.raises(SpecMismatch, match="control_hz"):
        Judge(acting, critic(spec=faster))
    with pytest.raises(ConfigError, match="sees 3 observations"):
        Judge(acting, critic(obs_horizon=3))
    with pytest.raises(ConfigError, match="values 9 actions"):
        Judge(acting, critic(action_horizon=9))
    with pytest.warns(UserWarning, match="values 1 actions, the policy executes 4"):
        Judge(acting, critic(action_horizon=1))


def test_nothing_of_a_critic_is_trained_by_steering() -> None:
    judge = Judge(policy(), critic())
    assert not any(parameter.requires_grad for parameter in judge.critic.parameters())
    assert np.isfinite(judge.critic.sample(seen(1)).actions).all()
