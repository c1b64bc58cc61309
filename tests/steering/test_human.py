from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.compose import compose
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, config_class, get, names, parse
from robopolicy.spec import ActionSpec
from robopolicy.steering.alignment import spread
from robopolicy.steering.guidance import Guidance, Nudge, Point, Sketch
from robopolicy.steering.positions import Positions, PositionsConfig
from tests.policies.toys import SPEC, generators, make, observation
from tests.steering.toys import DEVIATION, HELD, wandering

LINE = [[0.0, 0.0], [0.0, 5.0]]
STRATEGIES: dict[str, dict[str, Any]] = {
    "output_perturbation": {"strength": 0.7},
    "ranking": {"candidates": 4},
    "biased": {"strength": 0.5},
    "guided": {"strength": 2.0},
    "stochastic": {"strength": 2.0},
}
NOTHING: dict[str, dict[str, Any]] = {
    "random": {},
    "output_perturbation": {"strength": 0.0},
    "ranking": {"candidates": 1},
    "biased": {"strength": 0.0},
    "guided": {"strength": 0.0},
    "stochastic": {"strength": 0.0, "corrector": {"steps": 0}},
}


def steer(name: str, policy: Policy | None = None, **settings: Any) -> Policy:
    made = build("steer", {"name": name, **settings}, policy=policy or wandering())
    assert isinstance(made, Policy)
    return made


def place(rows: int) -> dict[str, np.ndarray]:
    """Observations at the origin."""
    return {key: np.zeros((rows, 2, *o.shape), np.float32) for key, o in HELD.observations.items()}


@pytest.mark.parametrize("name", [*NOTHING, "costs", "composition"])
def test_the_yaml_says_what_the_config_says(name: str) -> None:
    others = {"others": ("elsewhere",)} if name == "composition" else {}
    words = [f"steer={name}", "checkpoint=x", *(f"steer.{key}=[{value[0]}]" for key, value in others.items())]
    values = compose("evaluate", words)["steer"]
    assert values.pop("name") == name
    config = config_class(get("steer", name))
    assert parse(config, values) == config(**others)


def test_the_six_strategies_are_there() -> None:
    assert {*NOTHING} <= {*names("steer")}


@pytest.mark.parametrize("name", NOTHING)
def test_at_no_strength_it_is_the_policy_bit_for_bit(name: str) -> None:
    seen = observation(3, spec=HELD)
    plain = wandering().sample(seen, n=2, generator=generators(1, 2, 3))
    made = steer(name, sketch=LINE, **NOTHING[name]).sample(seen, n=2, generator=generators(1, 2, 3))
    np.testing.assert_array_equal(made.actions, plain.actions)
    assert made.calls == plain.calls


@pytest.mark.parametrize("name", STRATEGIES)
def test_plans_come_nearer_to_what_is_wanted(name: str) -> None:
    """A policy that goes right is asked to go up; and its rows do not depend on their batch."""
    steered: Any = steer(name, sketch=LINE, **STRATEGIES[name])
    seen, rows = place(40), range(40)

    def error(actions: np.ndarray) -> float:
        return float(steered.alignment.distance(torch.as_tensor(actions[:, 0]), torch.zeros(40, 2)).mean())

    plain = error(wandering().sample(seen, generator=generators(*rows)).actions)
    found = steered.sample(seen, generator=generators(*rows)).actions
    assert error(found) < 0.95 * plain
    alone = steered.sample({k: v[7:8] for k, v in seen.items()}, generator=generators(7)).actions
    np.testing.assert_allclose(alone[0], found[7], atol=1e-5)


def test_calls_are_counted() -> None:
    seen = place(1)
    calls = {
        name: steer(name, sketch=LINE, **settings).sample(seen, generator=generators(0)).calls
        for name, settings in STRATEGIES.items()
    }
    assert calls == {"output_perturbation": 10, "ranking": 40, "biased": 6, "guided": 10, "stochastic": 50}


def test_a_plan_moved_all_the_way_is_the_sketch() -> None:
    """At the pace of the plan: each row as far along the line as the plan has travelled."""
    steered = steer("output_perturbation", sketch=LINE, strength=1.0)
    plain = wandering().sample(place(5), generator=generators(*range(5))).actions[:, 0]
    found = steered.sample(place(5), generator=generators(*range(5))).actions[:, 0]
    np.testing.assert_allclose(found[:, 1:, 0], 0, atol=1e-5)
    ahead = np.concatenate([np.zeros((5, 1, 2)), plain[:, 1:]], 1)
    travelled = np.linalg.norm(np.diff(ahead, axis=1), axis=2).cumsum(1)
    np.testing.assert_allclose(found[:, 1:, 1], np.minimum(travelled, 5.0), atol=1e-4)


def test_ranking_keeps_the_nearest_of_its_candidates() -> None:
    """The first candidate has the noise of the request, the others follow from the generator."""
    steered: Any = steer("ranking", sketch=LINE, candidates=3)
    seen = place(2)
    found = steered.sample(seen, generator=generators(1, 2))
    made = []
    for row, seed in enumerate((1, 2)):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.cat(
            [torch.randn(1, 1, 8, 2, generator=generator), torch.randn(1, 2, 8, 2, generator=generator)], 1
        )
        one = {k: v[row : row + 1] for k, v in seen.items()}
        actions = torch.as_tensor(wandering().sample(one, n=3, noise=noise).actions[0])
        cost = steered.alignment.distance(actions, torch.zeros(3, 2))
        made.append(actions[cost.argmin()].numpy())
    np.testing.assert_allclose(found.actions[:, 0], np.stack(made), atol=1e-6)


def test_a_late_start_is_the_wish_with_noise() -> None:
    """One of ten steps is left: the last level's noise, taken away by a Gaussian of known deviation."""
    steered: Any = steer("biased", point=[3.0, 3.0], strength=0.95)
    assert steered.skipped == 9
    noise = torch.zeros(1, 1, 8, 2)
    found = steered.sample(place(1), noise=noise).actions[0, 0]
    mean = np.stack([0.1 * np.arange(8), np.zeros(8)], 1)
    moved = mean + ([3.0, 3.0] - mean[-1]) * np.array([0, *range(1, 8)])[:, None] / 7
    sigma = float(wandering().sampler.sigmas[9])
    share = DEVIATION**2 / (DEVIATION**2 + sigma**2)
    np.testing.assert_allclose(found, mean + share * (moved - mean), atol=1e-4)


def test_guided_diffusion_meets_a_point_with_its_nearest_row() -> None:
    found = steer("guided", point=[0.9, 0.3], strength=3.0).sample(
        place(30), generator=generators(*range(30))
    )
    plain = wandering().sample(place(30), generator=generators(*range(30)))

    def nearest(actions: np.ndarray) -> np.ndarray:
        gap = np.linalg.norm(actions[:, 0, 1:] - [0.9, 0.3], axis=2)
        return np.asarray(gap.min(1).mean())

    assert nearest(found.actions) < 0.5 * nearest(plain.actions)


def test_wishes_of_each_row() -> None:
    """Two observations with two sketches, three chunks each, as if each were alone."""
    lines = [LINE, [[0.0, 0.0], [0.0, -5.0]]]
    policy = wandering()
    both = build("steer", {"name": "guided", "strength": 2.0}, policy=policy, guidance=Sketch(lines))
    found = both.sample(place(2), n=3, generator=generators(1, 2)).actions
    for row, line in enumerate(lines):
        alone = steer("guided", sketch=line, strength=2.0)
        expected = alone.sample(place(1), n=3, generator=generators(row + 1)).actions
        np.testing.assert_allclose(found[row], expected[0], atol=1e-5)
    with pytest.raises(ConfigError, match="2 wishes"):
        both.sample(place(3), generator=generators(1, 2, 3))


def test_targets_of_each_input() -> None:
    plan = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]]).double()
    here = torch.zeros(1, 2).double()

    def wanted(guidance: Guidance) -> tuple[list[Any], list[Any]]:
        target, which = guidance.target(plan, here, 1)
        return target[0].tolist(), which[0].tolist()

    assert wanted(Point([2.2, 1.0]))[1] == [0, 0, 1, 0]
    target, which = wanted(Sketch([[0.0, -1.0], [0.0, 2.0]]))
    assert which == [0, 1, 1, 0]
    np.testing.assert_allclose(target[1:3], [[0, 1], [0, 2]], atol=1e-12)
    target, which = wanted(Nudge([0.0, -1.5]))
    assert which == [0, 1, 0, 0]
    np.testing.assert_allclose(target[1], [0, -1], atol=1e-12)


def test_a_change_is_spread_over_free_rows() -> None:
    change = torch.tensor([[9.0, 9.0, 9.0, 2.0, 9.0, 4.0, 9.0]])[..., None]
    wanted = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]])
    expected = torch.tensor([[0.0, 2 / 3, 4 / 3, 2.0, 3.0, 4.0, 4.0]])
    torch.testing.assert_close(spread(change, wanted, 1)[..., 0], expected)
    assert (spread(change, torch.zeros_like(wanted), 1) == 0).all()


def test_actions_that_are_steps_become_positions_and_back() -> None:
    steps = dataclasses.replace(
        HELD,
        action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0), representation="ee_delta"),
    )
    positions = Positions(PositionsConfig(columns=(0, 1), key="place", scale=0.5), steps, 2)
    actions, here = torch.randn(3, 6, 2), torch.randn(3, 2)
    plan = positions.of(actions, here)
    torch.testing.assert_close(plan[:, 0], here)
    torch.testing.assert_close(plan[:, 3], here + 0.5 * actions[:, 1:4].sum(1))
    change = torch.randn(3, 6, 2)
    change[:, 0] = 0
    again = positions.of(positions.moved(actions, change), here)
    torch.testing.assert_close(again, plan + change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Nothing is wanted"),
        ({"point": (0.0, 0.0), "nudge": (1.0, 0.0)}, "Give one of"),
        ({"point": (0.0, 0.0, 0.0)}, "3 coordinates"),
        ({"nudge": (0.0, 0.0)}, "a direction"),
        ({"point": (0.0, float("inf"))}, "finite"),
        ({"point": (0.0, 0.0), "strength": -1.0}, "strength"),
        ({"point": (0.0, 0.0), "stop": -1.0}, "stop"),
        ({"point": (0.0, 0.0), "positions": {"columns": (0, 1)}}, "columns and key"),
        ({"point": (0.0, 0.0), "positions": {"columns": (0, 1), "key": "plaice"}}, "plaice"),
        ({"point": (0.0, 0.0), "positions": {"columns": (0, 1), "key": "odd"}}, "not where"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        steer("guided", **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("output_perturbation", {"strength": 2.0}),
        ("ranking", {"candidates": 0}),
        ("biased", {"strength": 1.0}),
    ],
)
def test_strengths_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"candidates|strength"):
        steer(name, sketch=LINE, **settings)


def test_actions_without_positions_need_a_declaration() -> None:
    with pytest.raises(ConfigError, match="do not say where"):
        steer("guided", make("diffusion", spec=SPEC, network={"name": "mlp", "width": 16}), point=(0.0, 0.0))


@pytest.mark.parametrize(
    ("kind", "size"),
    [("gaussian", {"width": 16}), ("energy_published", {"network": {"name": "mlp", "width": 16}})],
    ids=["gaussian", "energy_published"],
)
def test_policies_without_a_field_are_ranked_but_not_guided(kind: str, size: dict[str, Any]) -> None:
    policy, seen = make(kind, spec=HELD, **size), place(2)
    calls = policy.sample(seen, n=16, generator=generators(1, 2)).calls
    ranked = steer("ranking", policy, sketch=LINE).sample(seen, generator=generators(1, 2))
    assert ranked.calls == 16 * calls
    for name in ("guided", "stochastic", "biased"):
        with pytest.raises(MissingCapability, match=f"{type(policy).__name__} has no denoiser"):
            steer(name, policy, sketch=LINE)


@pytest.mark.parametrize("name", ["ranking", "stochastic"])
def test_a_given_noise_leaves_no_room_for_drawing(name: str) -> None:
    with pytest.raises(MissingCapability, match="noise"):
        steer(name, sketch=LINE).sample(place(1), noise=torch.zeros(1, 1, 8, 2))


def test_fields_are_wrapped_in_turn() -> None:
    """Guided, in a box: the wish is above it, and the plans stay inside."""

    def highest(actions: np.ndarray) -> float:
        return float(actions[:, 0, 1:, 1].mean())

    guided = steer("guided", nudge=[0.0, 3.0], strength=3.0)
    boxed = steer("costs", guided, workspace=6.0, low=(-5.0, -5.0), high=(5.0, 0.2), corrector={"steps": 0})
    free, held = (p.sample(place(20), generator=generators(*range(20))).actions for p in (guided, boxed))
    assert highest(held) < highest(free) - 0.1
