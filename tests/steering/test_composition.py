from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.composed import domain_level, task_level
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from tests.policies.toys import generators, make, observation
from tests.steering.toys import HELD, NETWORK, wandering

STILL = {"corrector": {"steps": 0}}
SEEN = observation(2, spec=HELD)


def other() -> DiffusionPolicy:
    """An untrained network."""
    policy = make("diffusion", spec=HELD, network=NETWORK, clip=False)
    assert isinstance(policy, DiffusionPolicy)
    return policy


def acts(policy: Policy) -> np.ndarray:
    return np.asarray(policy.sample(SEEN, generator=generators(1, 2)).actions)


def steered(monkeypatch: pytest.MonkeyPatch, second: Policy, **settings: Any) -> Policy:
    monkeypatch.setattr("robopolicy.steering.composition.load", lambda path, device: second)
    config = {"name": "composition", "others": ("elsewhere",), **settings}
    made = build("steer", config, policy=wandering())
    assert isinstance(made, Policy)
    return made


def test_the_ends_of_a_task_level_sum_are_the_policies() -> None:
    general, specific = other(), wandering()
    np.testing.assert_array_equal(acts(task_level(general, specific, 0.0, sampler=STILL)), acts(general))
    np.testing.assert_array_equal(acts(task_level(general, specific, 1.0, sampler=STILL)), acts(specific))


def test_a_domain_level_sum_is_by_default_the_mean_and_corrected() -> None:
    policies = [wandering(), wandering(), wandering()]
    np.testing.assert_allclose(acts(domain_level(policies, sampler=STILL)), acts(policies[0]), atol=1e-5)
    corrected = domain_level(policies)
    assert corrected.sampler.corrector.steps > 0
    product = acts(domain_level(policies, (1, 1, 1), sampler={"corrector": {"steps": 20}}))
    assert np.isfinite(product).all()


def test_steering_by_composition_is_the_composed_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    made = steered(monkeypatch, other(), weights=(0.4, 0.6), **STILL)
    expected = domain_level([wandering(), other()], (0.4, 0.6), sampler=STILL)
    np.testing.assert_array_equal(acts(made), acts(expected))
    pushed = steered(monkeypatch, other(), level="task", weights=(1.5,), **STILL)
    np.testing.assert_array_equal(acts(pushed), acts(task_level(wandering(), other(), 1.5, sampler=STILL)))
    assert made.sample(SEEN, generator=generators(1, 2)).calls == 20
    guided = build("steer", {"name": "guided", "point": (0.0, 0.0), "strength": 0.0}, policy=made)
    np.testing.assert_array_equal(acts(guided), acts(made))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"others": ()}, "give the other policies"),
        ({"level": "task"}, "one other policy and one weight"),
        ({"weights": (1.0,)}, "weight for each"),
        ({"level": "behaviour"}, "behaviour"),
    ],
)
def test_sums_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        steered(monkeypatch, other(), **settings)


@pytest.mark.parametrize(
    ("name", "found"), [("gaussian", "GaussianPolicy"), ("energy_published", "EnergyPublishedPolicy")]
)
def test_a_policy_that_does_not_denoise_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    for level in ({}, {"level": "task", "weights": (1.5,)}):
        with pytest.raises(MissingCapability, match=f"{found} has no field"):
            steered(monkeypatch, make(name, spec=HELD), **level)


def test_an_energy_that_denoises_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = make("energy_denoising", spec=HELD, network=NETWORK, clip=False)
    made = steered(monkeypatch, energy, weights=(0.4, 0.6), **STILL)
    expected = domain_level([wandering(), energy], (0.4, 0.6), sampler=STILL)
    np.testing.assert_array_equal(acts(made), acts(expected))
