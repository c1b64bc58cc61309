from __future__ import annotations

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.policies.modality_dropout import ModalityDropoutPolicy, kept_groups
from tests.policies.two_modes import assert_two_modes, learn, make, random_batch


def test_one_group_always_stays_and_the_others_go_as_often_as_asked() -> None:
    torch.manual_seed(0)
    kept = kept_groups(20_000, 2, 0.3)
    assert kept.any(1).all()
    # 0.3 of rows lose a group, but of the 0.09 that would lose both half keep it.
    assert kept.float().mean(0) == pytest.approx([0.745, 0.745], abs=0.01)


def test_whole_groups_are_zero_in_training_and_none_otherwise() -> None:
    policy = make("modality_dropout", drop=0.5)
    assert isinstance(policy, ModalityDropoutPolicy)
    seen = random_batch(64).observation
    complete = policy.eval().condition(seen)
    torch.manual_seed(0)
    thinned = policy.train().condition(seen)
    goal, position = thinned.split([2, 3], -1)
    for part in (goal, position):
        zero = (part == 0).flatten(1)
        assert (zero.all(1) == zero.any(1)).all()
        assert 0 < int(zero.all(1).sum()) < 40
    untouched = (thinned != 0).flatten(1).all(1)
    assert torch.equal(thinned[untouched], complete[untouched])
    assert not (complete == 0).any()


@pytest.mark.slow
def test_it_learns() -> None:
    assert_two_modes(learn(make("modality_dropout", sampler={"name": "ddim", "steps": 20}), steps=400))


def test_dropping_always_is_refused() -> None:
    with pytest.raises(ConfigError, match="drop"):
        make("modality_dropout", drop=1.0)
