from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.rl.actor_critic import Transitions
from robopolicy.values.corruption import REACH, Corruption
from tests.values.toys import mixed, trainer

MANY = 4000


def clean() -> Transitions:
    generator = torch.Generator().manual_seed(0)
    state, action = torch.randn(MANY, 3, generator=generator), torch.rand(MANY, 2, generator=generator) - 0.5
    zeros = torch.zeros(MANY)
    return Transitions(
        state=5 * state, action=action, reward=zeros, discount=zeros, next_state=state, returns=zeros
    )


def test_a_share_is_spoiled_in_all_its_parts_and_the_rest_left_alone() -> None:
    data, index = clean(), torch.arange(MANY)
    corruption = Corruption(0.3, data, many=MANY, low=-1.0, high=2.0, seed=0)
    found, wrong = corruption.spoil(data, index), corruption.spoiled
    assert float(wrong.float().mean()) == pytest.approx(0.3, abs=0.03)
    for name in ("state", "action", "next_state", "reward", "returns"):
        before, after = getattr(data, name), getattr(found, name)
        assert torch.equal(after[~wrong], before[~wrong]), name
        assert bool((after[wrong] != before[wrong]).all()), name
    moved = (found.state - data.state)[wrong] / data.state.std(0)
    assert float(moved.abs().max()) <= REACH
    assert moved.std(0) == pytest.approx([REACH / 3**0.5] * 3, rel=0.05)  # uniform
    assert float(found.action.abs().max()) <= 1
    assert found.reward[wrong].min() == pytest.approx(-1, abs=0.02)
    assert found.reward[wrong].max() == pytest.approx(2, abs=0.02)


def test_what_is_spoiled_stays_so_whatever_it_is_drawn_with() -> None:
    data = clean()
    corruption = Corruption(0.5, data, many=MANY, low=0.0, high=1.0, seed=3)
    whole = corruption.spoil(data, torch.arange(MANY))
    index = torch.randint(MANY, (64,), generator=torch.Generator().manual_seed(1))
    part = Transitions(**{name: getattr(data, name)[index] for name in Transitions.__dataclass_fields__})
    again = corruption.spoil(part, index)
    assert torch.equal(again.state, whole.state[index])
    assert torch.equal(again.reward, whole.reward[index])
    other = Corruption(0.5, data, many=MANY, low=0.0, high=1.0, seed=4)
    assert not torch.equal(other.spoiled, corruption.spoiled)


def test_a_run_learns_from_the_spoiled_and_is_judged_by_the_clean(tmp_path: Path) -> None:
    mixed(tmp_path / "episodes.zarr", 20)
    runs = [
        trainer(tmp_path / "episodes.zarr", tmp_path / str(share), steps=3, corrupt=share, validation=0.2)
        for share in (0.0, 0.5)
    ]
    for run in runs:
        run.generator.manual_seed(0)
    held = [run._batch(run._held_out, 256) for run in runs]
    assert torch.equal(held[0].reward, held[1].reward)
    policies = [run.train() for run in runs]
    first, second = (next(iter(policy.critic.parameters())) for policy in policies)
    assert not torch.equal(first, second)


def test_a_share_of_one_or_more_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 <= corrupt < 1"):
        trainer(tmp_path / "none.zarr", tmp_path / "run", corrupt=1.0)
