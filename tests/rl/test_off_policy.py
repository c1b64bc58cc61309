"""What every method with a replay must do: learn, resume exactly, save and load, refuse what cannot work."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy import load
from robopolicy.compose import compose
from robopolicy.errors import ConfigError
from robopolicy.evaluation.collect import collect
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Provenance
from robopolicy.registry import config_class, get, parse
from robopolicy.rl.presets import learner_config
from robopolicy.rl.rlpd import blank_policy
from tests.rl.fragile_env import lose
from tests.rl.toy_base import LEARNER, TASK, astray, copied, practise, refiner, success
from tests.toy_env import toy_spec, toy_task

QUICK: dict[str, dict[str, Any]] = {
    "dsrl": {"convention": {"reward": "cost"}},
    "dsrl_sac": {},
    "residual": {"critic_first": 4},
    "rlpd": {},
    "sac": {},
    "jsrl": {"stages": 2, "window": 2},
}
EARLY = {"warmup": 100, "update_ratio": 0.3, "learner": {**LEARNER, "batch_size": 16}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("demonstrations") / "toy.zarr"
    collect(TASK, path, episodes=40, workers=0, progress=False)
    return str(path)


def make(method: str, store: str, seed: int = 0, **changes: Any) -> Any:
    data = {"data": store} if method in ("rlpd", "dsrl", "residual") else {}
    return refiner(method, astray(), lanes=4, seed=seed, **{**EARLY, **QUICK[method], **data, **changes})


@pytest.mark.parametrize(("method", "n_step"), [*((method, 1) for method in QUICK), ("dsrl", 3), ("rlpd", 2)])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(method: str, n_step: int, store: str) -> None:
    straight = make(method, store, n_step=n_step)
    rows = practise(straight, 400)
    halted = make(method, store, n_step=n_step)
    practise(halted, 230)
    tensors, state = copied(halted.tensors()), json.loads(json.dumps(halted.state()))
    resumed = make(method, store, n_step=n_step)
    resumed.load_tensors(tensors)
    resumed.restore(state)
    assert resumed.env_steps == halted.env_steps
    again = practise(resumed, 400)
    timeless = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]
    assert [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in again] == timeless[
        len(rows) - len(again) :
    ]
    expected = straight.tensors()
    assert any("loss" in name for name in again[-1])
    for name, found in resumed.tensors().items():
        assert torch.equal(found, expected[name]), name


@pytest.mark.parametrize("method", ["dsrl_sac", "residual"])
def test_rows_of_the_replay_go_on_where_their_episode_does(method: str, store: str) -> None:
    made = make(method, store, n_step=2)
    practise(made, 300)
    columns = made.replay._columns
    following = columns["following"][: len(made.replay)].long()
    after = torch.arange(len(following)) + following
    goes_on = following > 0
    assert goes_on.float().mean() > 0.3
    names = [key for key in columns if f"next_{key}" in columns]
    assert names
    for key in names:
        assert torch.equal(columns[f"next_{key}"][: len(following)][goes_on], columns[key][after[goes_on]])
    ended = columns["discount"][: len(following)] == 0
    assert not (ended & goes_on).any()
    for refused in ({"n_step": 0}, {"capacity": 0}):
        with pytest.raises(ConfigError, match="n_step, capacity >= 1"):
            make(method, store, **refused)
    with pytest.raises(ConfigError, match=r"two chunks of every lane: capacity >= (\d+) with"):
        make(method, store, capacity=made.practice.envs.num_envs)


@pytest.mark.parametrize("method", ["sac", "rlpd", "dsrl"])
def test_lost_lanes_leave_no_row_and_nothing_goes_on_across_their_loss(method: str, store: str) -> None:
    made = make(method, store, n_step=2)
    losses = {0: [0, 1, 2, 3], 2: [1], 8: [0, 3], 11: [0, 1, 2, 3], 13: [2]}
    lose(made.practice.envs, losses)
    cut: list[int] = []  # rows whose episode was lost right after them
    for k in range(16):
        lost = losses.get(k, [])
        cut += made.newest[lost].tolist()
        row = made.advance()
        assert all(math.isfinite(value) for value in row.values())
        assert (made.newest[lost] == -1).all()
    assert "critic_loss" in row
    assert made.practice.lost_episodes == 12
    assert len(made.replay) == 16 * 4 - 12
    cut = [at for at in cut if at >= 0]
    assert len(cut) >= 4
    columns = {key: value[: len(made.replay)] for key, value in made.replay._columns.items()}
    following = columns["following"].long()
    assert not following[cut].any()
    goes_on = following > 0
    assert goes_on.sum() >= 16
    for key in [key for key in columns if f"next_{key}" in columns]:
        after = columns[key][(torch.arange(len(following)) + following)[goes_on]]
        assert torch.equal(columns[f"next_{key}"][goes_on], after)


@pytest.mark.parametrize("method", QUICK)
def test_critics_may_learn_alone_at_first(method: str, store: str) -> None:
    made = make(method, store, critic_first=10)
    untaught = {name: value.clone() for name, value in made.learner.state_dict().items()}

    def moved(part: str) -> bool:
        return any(not torch.equal(v, untaught[k]) for k, v in made.learner.state_dict().items() if part in k)

    while int(made.learner.updates) < 5:
        made.advance()
    assert int(made.learner.updates) <= 10
    assert not moved("actor.")
    assert moved("critic.")
    while int(made.learner.updates) < 20:
        made.advance()
    assert moved("actor.")


@pytest.mark.parametrize("method", QUICK)
def test_the_refined_policy_saves_loads_and_acts_the_same(method: str, store: str, tmp_path: Path) -> None:
    made = make(method, store)
    practise(made, 200)
    policy = made.refined()
    save_checkpoint(tmp_path / "step-00000001", policy)
    again = load(tmp_path / "step-00000001")
    assert type(again) is type(policy)
    assert again.config == policy.config
    assert again.provenance.task == TASK
    rng = np.random.default_rng(0)
    seen = {key: rng.normal(size=(3, 1, 2)).astype(np.float32) for key in ("position", "goal")}
    drawn = [p.sample(seen, n=2, generator=torch.Generator().manual_seed(5)) for p in (policy, again)]
    np.testing.assert_array_equal(drawn[0].actions, drawn[1].actions)
    noise = torch.randn(3, 2, *policy.noise_shape)
    given = [p.sample(seen, n=2, noise=noise).actions for p in (policy, again)]
    np.testing.assert_array_equal(given[0], given[1])
    rows = {key: value[1:2] for key, value in seen.items()}
    alone = policy.sample(rows, n=2, noise=noise[1:2]).actions
    np.testing.assert_allclose(alone, given[0][1:2], atol=1e-6)


@pytest.mark.parametrize("method", QUICK)
def test_nothing_is_learned_while_warming_up(method: str, store: str) -> None:
    made = make(method, store, warmup=100)
    before = copied(made.learner.state_dict())
    while made.warming:
        assert "critic_loss" not in made.advance()
    assert all(torch.equal(v, before[k]) for k, v in made.learner.state_dict().items())
    assert len(made.replay) > 0


@pytest.mark.parametrize("method", ["dsrl", "dsrl_sac", "residual"])
def test_the_base_never_changes(method: str, store: str) -> None:
    base = astray()
    made = refiner(method, base, lanes=4, **{**EARLY, **QUICK[method]})
    practise(made, 300)
    inside = made.refined().base.state_dict()
    for name, value in base.state_dict().items():
        assert torch.equal(value, inside[name]), name
    assert made.refined().base is not base


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("sac", {"gamma": 1.5}, "gamma"),
        ("sac", {"update_ratio": 0.0}, "update_ratio"),
        ("sac", {"learner": {"preset": "iql"}}, "must explore"),
        ("rlpd", {"data": None}, "data="),
        ("residual", {"scale": 0.0}, "scale"),
        ("jsrl", {"stages": 0}, "stages"),
        ("jsrl", {"action_horizon": 2}, "horizons must agree"),
        ("dsrl", {"actor_share": 2.0}, "actor_share"),
        ("dsrl", {"bound": -1.0}, "bound"),
        ("dsrl_sac", {"data": "some.zarr"}, "method=dsrl"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    method: str, changes: dict[str, Any], message: str, store: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(method, store, **changes)


@pytest.mark.parametrize("method", QUICK)
def test_the_yaml_of_a_method_is_what_its_config_says(method: str) -> None:
    config = compose(
        "refine",
        [f"method={method}", "checkpoint=x", "+method.data=some.zarr"][: 3 if method == "rlpd" else 2],
    )
    values = dict(config["method"])
    assert values.pop("name") == method
    cls = config_class(get("method", method))
    parsed, default = parse(cls, values), cls()
    chosen = {
        "rlpd": {"data"},
        "sac": {"convention", "warmup", "capacity"},
        "dsrl": {"warmup"},
        "dsrl_sac": {"warmup"},
    }
    for field in dataclasses.fields(cls):
        if field.name not in {"learner", *chosen.get(method, set())}:
            assert getattr(parsed, field.name) == getattr(default, field.name), field.name
    assert learner_config(parsed.learner).objective == "soft"


EASY = toy_task(horizon=12, success_hold=0, env={"speed": 0.2, "reach": 0.2})
SOFT = {**LEARNER, "target_entropy": -8.0}
ENSEMBLE = {**LEARNER, "preset": "rlpd", "critics": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "spread", "steps", "config"),
    [
        ("dsrl", 0.5, 6000, {"learner": SOFT}),
        ("dsrl_sac", 0.5, 4000, {"learner": SOFT}),
        ("residual", 0.2, 4000, {"critic_first": 50, "scale": 0.6}),
        (
            "residual",
            0.2,
            2500,
            {"critic_first": 50, "scale": 0.6, "action_horizon": 1, "update_ratio": 0.25},
        ),
        ("rlpd", 0.5, 5000, {"learner": ENSEMBLE}),
        ("jsrl", 0.5, 10_000, {"update_ratio": 1.0, "stages": 3, "window": 20, "tolerance": 0.2}),
    ],
)
def test_every_method_learns(
    method: str, spread: float, steps: int, config: dict[str, Any], store: str
) -> None:
    base = astray(spread=spread)
    data = {"data": store} if method == "rlpd" else {}
    made = refiner(method, base, **{"update_ratio": 0.5, **config, **data})
    practise(made, steps)
    before, after = success(base), success(made.refined())
    assert before < 0.45
    assert after > 0.7


@pytest.mark.slow
def test_sac_learns_from_nothing() -> None:
    blank = blank_policy(toy_spec(), action_horizon=4)
    blank.provenance = Provenance(task=EASY)
    made = refiner("sac", blank, convention={"reward": "cost", "terminate": True})
    before = success(made.refined(), EASY)
    practise(made, 4000)
    after = success(made.refined(), EASY)
    assert before < 0.3
    assert after > 0.7
