from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from robopolicy.errors import ConfigError
from robopolicy.registry import build, names, parse, plain, register, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float = 0.5
    inner: Inner = field(default_factory=Inner)
    mode: Literal["slow", "fast"] = "slow"
    sizes: tuple[int, ...] = ()
    limit: float | None = None


@register("test-kind", "thing")
class Thing:
    def __init__(self, config: Config, *, context: str) -> None:
        self.config, self.context = config, context


def test_builds_by_name_and_describes_itself() -> None:
    thing = build("test-kind", {"name": "thing", "inner": {"size": 3}, "sizes": [1, 2]}, context="here")
    assert thing.config == Config(inner=Inner(size=3), sizes=(1, 2))
    assert thing.context == "here"
    again = build("test-kind", to_dict("test-kind", thing), context="there")
    assert again.config == thing.config
    assert names("test-kind") == ["thing"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "thong"}, "'thong'.*Did you mean 'thing'"),
        ({}, "'name' is missing. Valid: thing"),
        ({"name": "thing", "rat": 1}, "test-kind=thing: Unknown key 'rat'.*'rate'"),
        ({"name": "thing", "inner": {"siz": 1}}, "test-kind=thing.inner: Unknown key 'siz'.*'size'"),
        ({"name": "thing", "rate": "high"}, "rate must be float"),
        ({"name": "thing", "inner": {"size": 1.5}}, "size must be int, got 1.5"),
        ({"name": "thing", "inner": {"size": True}}, "size must be int, got True"),
        ({"name": "thing", "mode": "quick"}, "'quick'.*fast, slow"),
    ],
)
def test_mistakes_name_the_culprit_and_the_choices(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("test-kind", values, context="")


def test_values_take_their_declared_types() -> None:
    parsed = parse(Config, {"rate": 1, "sizes": [3], "limit": 2})
    assert parsed == Config(rate=1.0, sizes=(3,), limit=2.0)
    assert isinstance(parsed.rate, float)
    assert isinstance(parsed.limit, float)
    assert parse(Config, {"limit": None}).limit is None
    assert parse(Config, plain(Config(rate=float("inf")))).rate == float("inf")


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(ConfigError, match="registered twice"):

        @register("test-kind", "thing")
        class Other:
            pass
