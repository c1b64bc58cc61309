"""What every family of policies must do, whichever way it makes its chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.learning.checkpoint import load, save_checkpoint
from robopolicy.policies.policy import Policy
from tests.policies.toys import NETWORK, check_two_modes, generators, learn_two_modes, make, observation

SMALL = {"width": 64, "blocks": 2}
TRANSFORMER = {"name": "transformer", "width": 32, "layers": 2, "heads": 2}
DIT = {"name": "dit", "width": 32, "layers": 2, "heads": 2}
MOE = {"name": "moe", "width": 32, "layers": 2, "heads": 2, "experts": 4}
STEPS = {"name": "ddim", "steps": 4}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("diffusion", {"network": TRANSFORMER, "sampler": STEPS}),
    ("diffusion", {"network": DIT, "sampler": STEPS}),
    ("diffusion", {"network": MOE, "sampler": STEPS}),
    ("diffusion", {"network": {"name": "dppo_mlp", "width": 64}, "sampler": {"name": "dpm", "steps": 4}}),
    ("diffusion", {"network": NETWORK, "sampler": {**STEPS, "corrector": {"steps": 2}}}),
    ("beso", {"network": NETWORK}),
    ("beso", {"network": NETWORK, "guidance": 1.5}),
    ("gaussian", SMALL),
    ("gmm", SMALL),
    ("gmm", {**SMALL, "low_noise": False}),
]
IDS = (
    "transformer", "dit", "moe", "dppo_mlp", "corrected", "beso", "guided", "gaussian", "gmm", "noisy gmm",
)  # fmt: skip
every = pytest.mark.parametrize(("name", "settings"), FAMILIES, ids=IDS)


def moved(name: str, settings: dict[str, Any]) -> Policy:
    """A policy none of whose weights is zero."""
    policy = make(name, **settings)
    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return policy


@every
@pytest.mark.parametrize("n", [1, 3])
def test_a_row_with_its_own_generator_does_not_depend_on_its_batch(
    name: str, settings: dict[str, Any], n: int
) -> None:
    policy, seen = moved(name, settings), observation(4)
    whole = policy.sample(seen, n=n, generator=generators(1, 2, 3, 4))
    swapped = {key: value[[0, 3, 2, 1]] for key, value in seen.items()}
    again = policy.sample(swapped, n=n, generator=generators(1, 4, 3, 2))
    assert whole.actions.shape == (4, n, 8, 2)
    assert np.isfinite(whole.actions).all()
    np.testing.assert_array_equal(whole.actions[[0, 3, 2, 1]], again.actions)
    if whole.log_prob is not None:
        assert again.log_prob is not None
        assert whole.log_prob.shape == (4, n)
        np.testing.assert_allclose(whole.log_prob[[0, 3, 2, 1]], again.log_prob, rtol=1e-5)


@every
def test_saved_and_loaded_it_acts_the_same(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    policy, seen = moved(name, settings), observation(3)
    save_checkpoint(tmp_path / "policy", policy)
    first = policy.sample(seen, n=2, generator=generators(1, 2, 3)).actions
    np.testing.assert_array_equal(
        load(tmp_path / "policy").sample(seen, n=2, generator=generators(1, 2, 3)).actions, first
    )


@every
def test_given_noise_selects_the_deterministic_path(name: str, settings: dict[str, Any]) -> None:
    policy, seen, noise = moved(name, settings), observation(2), torch.randn(2, 3, 8, 2)
    first = policy.sample(seen, n=3, noise=noise).actions
    np.testing.assert_array_equal(policy.sample(seen, n=3, noise=noise).actions, first)
    if "noise" in policy.capabilities:
        assert np.abs(policy.sample(seen, n=3, noise=noise + 1).actions - first).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("diffusion", {"network": {"name": "dppo_mlp", "width": 128}}),
        ("beso", {"network": NETWORK}),
        ("gmm", {**SMALL, "modes": 3}),
    ],
    ids=["dppo_mlp", "beso", "gmm"],
)
def test_learns_two_modes_and_never_their_average(name: str, settings: dict[str, Any]) -> None:
    check_two_modes(learn_two_modes(make(name, **settings)))


@pytest.mark.slow
def test_the_dit_learns_two_modes() -> None:
    check_two_modes(learn_two_modes(make("diffusion", network=DIT), updates=200))


@pytest.mark.slow
def test_the_transformer_learns_two_modes() -> None:
    """Early steps of its chunk see nothing of later ones, so they may choose another mode: see the bound."""
    network = {**TRANSFORMER, "layers": 1}
    check_two_modes(learn_two_modes(make("diffusion", network=network), updates=200), coherent=0.8)
