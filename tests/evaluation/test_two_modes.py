"""The toy that tells families that keep modes apart from those that average them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robopolicy.evaluation import two_modes as module
from robopolicy.evaluation.check_tables import check_sections
from robopolicy.evaluation.two_modes import FAMILIES, main, two_modes


def test_a_gaussian_averages_and_a_mixture_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: FAMILIES[name] for name in ("gaussian", "gmm")}
    monkeypatch.setattr(module, "FAMILIES", few)
    monkeypatch.setattr(module, "two_modes", lambda: two_modes(steps=60, batch=64, samples=128, seeds=(0,)))
    main([str(tmp_path / "two_modes.json")])
    average, mixture = json.loads((tmp_path / "two_modes.json").read_text())["rows"]
    assert average["seeds"] == [{"left": 0, "right": 0, "calls": 1}]
    assert 0.25 < mixture["seeds"][0]["left"] < 0.75
    assert mixture["seeds"][0]["left"] + mixture["seeds"][0]["right"] > 0.9
    assert "| gaussian | 1 | 0 | 0 | 100 |" in check_sections(tmp_path)


def test_a_policy_is_tried_with_several_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = FAMILIES["diffusion"]
    monkeypatch.setattr(module, "FAMILIES", {"diffusion": (settings, ({"steps": 1}, {"steps": 3}))})
    rows = two_modes(steps=2, batch=8, samples=8, seeds=(0, 1))["rows"]
    assert [[seed["calls"] for seed in row["seeds"]] for row in rows] == [[1, 1], [3, 3]]
