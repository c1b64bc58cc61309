from __future__ import annotations

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.world.two_hot import ActionCode, decode, one_hot, two_hot


def test_two_hot_is_lossless_inside_the_bins_and_has_two_neighbours() -> None:
    value = torch.cat([torch.linspace(-1, 1, 21), torch.rand(500) * 2 - 1]).double()
    code = two_hot(value, 21)
    assert torch.allclose(decode(code), value, atol=1e-12)
    assert torch.allclose(code.sum(-1), torch.ones(len(value), dtype=torch.float64))
    assert (code >= 0).all()
    used = code > 1e-9
    assert used.sum(-1).max() == 2
    first = used.int().argmax(-1)
    assert ((code.gather(-1, first[:, None])[:, 0] + _after(code, first)) > 1 - 1e-9).all()


def _after(code: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return code.gather(-1, (index + 1).clamp(max=code.shape[-1] - 1)[:, None])[:, 0] * (index < 20)


def test_beyond_the_bins_is_the_last_bin() -> None:
    assert torch.equal(decode(two_hot(torch.tensor([-3.0, 1.5]), 21)), torch.tensor([-1.0, 1.0]))


def test_one_hot_rounds_to_the_nearest_bin() -> None:
    found = decode(one_hot(torch.tensor([0.04, 0.06, -0.99]), 21))
    assert torch.allclose(found, torch.tensor([0.0, 0.1, -1.0]), atol=1e-6)


@pytest.mark.parametrize(("encoding", "size"), [("two_hot", 63), ("one_hot", 63), ("linear", 3)])
def test_the_size_of_a_code(encoding: str, size: int) -> None:
    code = ActionCode(encoding, 21, 3)  # type: ignore[arg-type]
    assert code.size == size
    assert code(torch.zeros(4, 2, 3)).shape == (4, 2, size)


def test_unknown_encodings_and_too_few_bins_are_refused() -> None:
    with pytest.raises(ConfigError, match="Valid: linear, one_hot, two_hot"):
        ActionCode("vq", 21, 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 2 bins, got 1"):
        ActionCode("two_hot", 1, 2)
