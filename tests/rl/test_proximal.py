from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.learning.nan_guard import NotFiniteError
from robopolicy.rl.proximal import Rollout
from tests.rl.fragile_env import lose
from tests.rl.toy_dppo import make


def test_lost_lanes_leave_no_row_and_no_return_runs_over_their_loss() -> None:
    # Every step pays 1 and nothing is discounted: a return is the steps to come and the value at their end.
    settings: dict[str, Any] = {"lanes": 2, "reach": 9.0, "gamma": 1.0, "lam": 1.0, "scale_rewards": False}
    whole, losing = (make(**settings, critic_warmup=0) for _ in range(2))
    lose(losing.practice.envs, {2: [1], 7: [0, 1]})
    (plain, _), (found, row) = whole.practise(), losing.practise()
    assert all(math.isfinite(value) for value in row.values())
    for rows in (found.condition, found.trace, found.log_prob, found.advantage):
        assert len(rows) == 9  # of two lanes by turns; the sixth is missing
    assert torch.equal(found.condition[:5], plain.condition[:5])
    lost = float(losing._values(plain.condition[5:6])[0])
    one, two = losing._values(losing._look()[1])
    expected = [20 + one, 8 + lost, 16 + one, 4 + lost, 12 + one, 8 + one, 8 + two, 4 + one, 4 + two]
    np.testing.assert_allclose(found.returns, expected, rtol=1e-5)
    row = losing.advance()
    assert all(math.isfinite(value) for value in row.values())
    assert losing.practice.lost_episodes == 3


def test_an_iteration_of_which_everything_is_lost_teaches_nothing() -> None:
    refiner = make(lanes=2, critic_warmup=0)
    lose(refiner.practice.envs, {chunk: [0, 1] for chunk in range(5)})
    before = [p.clone() for p in (*refiner.actor.parameters(), *refiner.critic.parameters())]
    row = refiner.advance()
    assert "policy_loss" not in row
    assert all(math.isfinite(value) for value in row.values())
    after = (*refiner.actor.parameters(), *refiner.critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert math.isfinite(refiner.advance()["policy_loss"])


def test_every_pair_is_learned_from_once_an_epoch() -> None:
    refiner = make(batch_size=17, critic_warmup=0)
    rollout, _ = refiner.practise()
    seen: list[torch.Tensor] = []
    original = refiner.actor_loss

    def spy(rollout: Rollout, pair: torch.Tensor, advantage: torch.Tensor) -> Any:
        seen.append(pair)
        return original(rollout, pair, advantage)

    refiner.actor_loss = spy  # type: ignore[method-assign]
    refiner.update(rollout)
    pairs = 5 * 4 * 3
    assert len(seen) == 2 * round(pairs / 17)
    assert sorted(torch.cat(seen).tolist()) == sorted([*range(pairs)] * 2)


def test_the_warm_up_trains_the_critic_alone() -> None:
    refiner = make(critic_warmup=1)
    before = [p.clone() for p in refiner.actor.parameters()]
    value = [p.clone() for p in refiner.critic.parameters()]
    assert refiner.warming
    refiner.advance()
    assert all(torch.equal(a, b) for a, b in zip(before, refiner.actor.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(value, refiner.critic.parameters(), strict=True))
    assert not refiner.warming
    refiner.advance()
    assert not all(torch.equal(a, b) for a, b in zip(before, refiner.actor.parameters(), strict=True))


def test_an_iteration_stops_where_it_went_too_far() -> None:
    refiner = make(target_kl=1e-9, critic_warmup=0, epochs=10, actor_rate=1e-2)
    row = refiner.advance()
    assert row["kl_stop"] == 1
    assert row["updates"] < 10


def test_a_loss_that_is_not_finite_names_the_culprit() -> None:
    refiner = make(critic_warmup=0)
    rollout, _ = refiner.practise()
    with torch.no_grad():
        next(refiner.critic.parameters())[0, 0] = math.nan
    with pytest.raises(NotFiniteError, match=r"critic inlet\.weight"):
        refiner.update(rollout)
    rollout.advantage[0] = math.nan
    with pytest.raises(NotFiniteError, match="advantages, critic"):
        refiner.update(rollout)
