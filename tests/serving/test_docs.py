"""What the page on serving tells people to type works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from robopolicy import load
from robopolicy.compose import compose
from robopolicy.serving.announcement import FIELDS
from robopolicy.serving.client import PolicyClient
from robopolicy.serving.served import MAX_TEXT
from robopolicy.serving.server import ServerConfig, running
from robopolicy.serving.wire import MAX_ENTRIES, MAX_VALUES
from tests.policies.test_remote import arm, foreign, openpi
from tests.serving.models import Sums, openpi_server
from tests.serving.octo import FakeOcto

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
CLIENT, DESCRIBED, ANNOUNCED, OCTO = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def execute(text: str, address: str = "") -> dict[str, Any]:
    """The names that a block of the page makes, with the address of a server that runs."""
    made: dict[str, Any] = {}
    exec(compile(text.replace("ws://127.0.0.1:8000", address), "serving.md", "exec"), made)  # noqa: S102
    return made


def test_the_torch_free_client() -> None:
    class States(Sums):
        def sample(self, observation: dict[str, Any], *rest: Any) -> Any:
            return super().sample({**observation, "instruction": [""] * len(observation["state"])}, *rest)

    served = States(max_chunks=1024)
    object.__setattr__(served.announcement, "spec", served.spec.select(["state", "picture"]))
    served.spec = served.spec.select(["state", "picture"])
    with running(served) as address:
        made = execute(CLIENT, address)
    assert made["actions"].shape == (4, 2)
    assert made["chunks"].shape == (4, 16, 5, 2)


def test_an_openpi_server_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(request: dict[str, Any]) -> dict[str, Any]:
        assert request["observation/image"].shape == (224, 224, 3)
        assert request["prompt"] == "fold"
        return {"actions": np.tile(request["observation/state"][:7], (10, 1))}

    monkeypatch.chdir(tmp_path)
    with openpi_server(infer) as address:
        execute(DESCRIBED, address)
        policy = load("outputs/pi0")
        seen = {
            "camera": np.zeros((1, 1, 224, 224, 3), np.uint8),
            "joints": np.arange(8, dtype=np.float32)[None, None],
            "instruction": ["fold"],
        }
        sample = policy.sample(seen, n=2)
    assert sample.requests == 2  # type: ignore[attr-defined]
    assert (sample.actions == np.arange(7)).all()


def module(monkeypatch: pytest.MonkeyPatch, name: str, **names: Any) -> None:
    made = ModuleType(name)
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, name, made)


def test_the_lines_an_openpi_server_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        """`infer` is that of openpi's `Policy`."""

        def __init__(self) -> None:
            self.metadata = {"robot": "arm"}
            self._rng = np.random.default_rng(0)

        def infer(self, obs: dict[str, Any], *, noise: np.ndarray | None = None) -> dict[str, Any]:
            drawn = self._rng.normal(size=(4, 3)) if noise is None else noise
            return {"actions": openpi(obs)["actions"] + drawn[:, :2], "state": obs["observation/state"]}

    base = ModuleType("base_policy")
    vars(base)["BasePolicy"] = object
    module(monkeypatch, "openpi_client", base_policy=base)
    random = ModuleType("random")
    vars(random)["key"] = np.random.default_rng
    module(monkeypatch, "jax", random=random)
    served = execute(ANNOUNCED)["Announced"](Model(), [4, 3])
    with openpi_server(served.infer, served.metadata) as address:
        policy = foreign(address)
        noise = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
        sample = policy.sample(arm(2), n=3, noise=noise)
        assert sample.requests == 2
        np.testing.assert_allclose(sample.actions, arm(2)["joints"][:, :, None] + noise[..., :2], rtol=1e-5)
        named = {policy.config.keys[key]: value for key, value in arm(2).items()}
        one, again = (policy.client.sample(named, n=3, seeds=[1, 2**62]).actions for _ in range(2))
        np.testing.assert_array_equal(one, again)
        assert (one[0, 0] != one[0, 1]).any()
        plain = {key: value[0] if key == "prompt" else value[0, 0] for key, value in named.items()}
        with PolicyClient(address) as client:
            assert client.infer(plain)["actions"].shape == (4, 2)


def test_the_octo_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Octo(FakeOcto):
        dataset_statistics = {"bridge_dataset": {"action": {"mean": np.zeros(7), "std": np.ones(7)}}}  # noqa: RUF012

        @classmethod
        def load_pretrained(cls, name: str) -> Octo:
            return cls()

        def sample_actions(self, observations: Any, tasks: Any, *, rng: Any) -> np.ndarray:
            assert observations["image_primary"].shape[1:] == (2, 256, 256, 3)
            return np.full((len(tasks["language_instruction"]), 4, 7), float(rng))

    random = ModuleType("random")
    vars(random)["PRNGKey"] = int
    module(monkeypatch, "jax", random=random)
    for name in ("octo", "octo.model"):
        module(monkeypatch, name)
    module(monkeypatch, "octo.model.octo_model", OctoModel=Octo)
    served = execute(OCTO)["make"]()
    seen = {"camera": np.zeros((1, 2, 256, 256, 3), np.uint8), "instruction": ["x"]}
    assert (served.sample(seen, 2, None, [5]).arrays["actions"] == 5).all()


def test_settings_and_limits_are_those_of_the_page() -> None:
    for line in re.findall(r"^python (scripts/\w+\.py.*)$", PAGE, re.MULTILINE):
        script, *words = line.split("#")[0].split()
        compose(Path(script).stem, words)
    settings = compose("serve", ["checkpoint=x"])
    assert settings["max_chunks"] == 1024
    assert settings["server"] == {
        name: getattr(ServerConfig, name) for name in ("host", "port", "max_clients", "max_bytes", "idle_s")
    }
    for number in (MAX_VALUES, MAX_TEXT):
        assert f"{number:,}".replace(",", " ") in PAGE
    assert f"{MAX_ENTRIES} in one list" in PAGE
    assert f"{ServerConfig.max_bytes // 2**20} MiB" in PAGE
    assert f"| {ServerConfig.max_clients} (`server.max_clients`)" in PAGE
    assert all(f"`{name}`" in PAGE for name in FIELDS)
