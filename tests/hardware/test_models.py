from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mujoco
import pytest

from hardware.models import find_model, main, model_path, providers
from robopolicy.errors import ConfigError

ARM = "<mujoco><worldbody><body name='{}'><geom size='1'/></body></worldbody></mujoco>"


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBOPOLICY_ASSETS", raising=False)
    monkeypatch.setattr("hardware.models._home", lambda package: None)
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    monkeypatch.setattr("hardware.models._menagerie", lambda name: None)


def test_without_others_there_is_ours() -> None:
    found = find_model("g1")
    assert found.provider == "built-in"
    assert mujoco.MjModel.from_xml_path(str(found.path)).nmesh == 0
    assert model_path("g1") == found.path == model_path("g1.xml")


def test_a_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOPOLICY_ASSETS", str(tmp_path))
    (tmp_path / "g1.xml").write_text(ARM.format("mine"))
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "arm.xml").write_text(ARM.format("arm"))
    assert [found.provider for found in providers("g1")] == ["folder", "built-in"]
    assert mujoco.MjModel.from_xml_path(str(model_path("arm"))).body(1).name == "arm"
    with pytest.raises(
        ConfigError, match=rf"No provider has a model 'leg': neither \$ROBOPOLICY_ASSETS={tmp_path}"
    ):
        model_path("leg")


def test_an_installed_package_comes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "asset_zoo/robots/unitree_g1/xmls/g1.xml"
    path.parent.mkdir(parents=True)
    path.write_text(ARM.format("theirs"))
    monkeypatch.setattr("hardware.models._home", lambda package: tmp_path if package == "mjlab" else None)
    assert [found.provider for found in providers("g1")] == ["mjlab", "built-in"]
    monkeypatch.setattr(sys, "argv", ["models", "g1"])
    main()
    assert str(path) in capsys.readouterr().out


def test_menagerie_is_asked_for_what_it_has_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    package, cache = ModuleType("mujoco_menagerie"), ModuleType("mujoco_menagerie._cache")
    robot = SimpleNamespace(
        name="unitree_g1", default_model="g1", entry=lambda name: SimpleNamespace(file=f"{name}.xml")
    )
    package.get = lambda name: {"unitree_g1": robot}[name]  # type: ignore[attr-defined]
    package.__spec__ = SimpleNamespace(name="mujoco_menagerie")  # type: ignore[assignment]
    cache.Cache = lambda: SimpleNamespace(root=tmp_path, model_path=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", package)
    monkeypatch.setitem(sys.modules, "mujoco_menagerie._cache", cache)
    assert "menagerie" not in [found.provider for found in providers("g1")]
    (tmp_path / "unitree_g1").mkdir()
    (tmp_path / "unitree_g1" / "g1.xml").write_text(ARM.format("g1"))
    assert find_model("g1").path == tmp_path / "unitree_g1" / "g1.xml"
