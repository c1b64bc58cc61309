"""One registry: classes are chosen by kind and name, and built from a frozen config dataclass.

    @dataclass(frozen=True, kw_only=True)
    class MLPConfig:
        width: int = 512

    @register("network", "mlp")
    class MLP(nn.Module):
        def __init__(self, config: MLPConfig, *, action_dim: int): ...

    build("network", {"name": "mlp", "width": 256}, action_dim=7)

The config class is the annotation of the constructor's first parameter. Other distributions plug in
through the entry-point group ``robopolicy.plugins`` (an entry point names a module to import).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from robopolicy.errors import ConfigError, unknown

__all__ = ["PLUGIN_GROUP", "build", "config_class", "get", "names", "parse", "plain", "register", "to_dict"]

PLUGIN_GROUP = "robopolicy.plugins"

# Packages whose modules are imported the first time a kind is asked for: importing robopolicy stays cheap.
_HOMES: dict[str, str] = {
    "policy": "robopolicy.policies",
    "network": "robopolicy.networks",
    "encoder": "robopolicy.networks",
    "text_encoder": "robopolicy.networks",
    "sampler": "robopolicy.diffusion",
    "method": "robopolicy.rl",
    "world": "robopolicy.world",
    "steer": "robopolicy.steering",
}

_entries: dict[str, dict[str, type]] = {}

T = TypeVar("T")
C = TypeVar("C", bound=type)


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: make a class available as ``build(kind, {"name": name, ...})``."""

    def decorate(cls: C) -> C:
        known = _entries.setdefault(kind, {})
        if name in known and known[name].__qualname__ != cls.__qualname__:
            raise ConfigError(f"{kind} {name!r} is registered twice: {known[name]} and {cls}.")
        known[name] = cls
        marked: Any = cls
        marked.registered_name = name
        return cls

    return decorate


def names(kind: str) -> list[str]:
    """Every registered name of a kind."""
    _load(kind)
    return sorted(_entries.get(kind, {}))


def get(kind: str, name: str) -> type:
    """The class registered under a kind and a name.

    Raises:
        ConfigError: unknown name; the message lists the valid ones.
    """
    _load(kind)
    known = _entries.get(kind, {})
    if name not in known:
        raise ConfigError(unknown(kind, name, known))
    return known[name]


def config_class(cls: type) -> type:
    """The frozen dataclass that configures a registered class."""
    parameters = list(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    if len(parameters) < 2 or not dataclasses.is_dataclass(hints.get(parameters[1])):
        raise ConfigError(f"{cls.__qualname__}'s first argument must be its config dataclass.")
    return typing.cast(type, hints[parameters[1]])


def parse(config: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from a mapping: unknown keys are refused beside the valid ones.

    Nested dataclasses are parsed recursively and lists become tuples, so that the value is hashable
    and comparable.
    """
    where = where or config.__name__
    hints = typing.get_type_hints(config)
    fields = {f.name: f for f in dataclasses.fields(config) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}: " + unknown("key", key, fields))
    parsed = {key: _coerce(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return config(**parsed)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def build(kind: str, config: Mapping[str, Any] | Any, **context: Any) -> Any:
    """Construct a registered class from ``{"name": ..., **config}``, with what else it needs in `context`."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"{kind}: expected a mapping with a 'name', got {config!r}.")
    values = dict(config)
    if "name" not in values:
        raise ConfigError(f"{kind}: 'name' is missing. Valid: {', '.join(names(kind))}.")
    name = values.pop("name")
    cls = get(kind, name)
    return cls(parse(config_class(cls), values, where=f"{kind}={name}"), **context)


def to_dict(kind: str, instance: Any) -> dict[str, Any]:
    """The mapping that `build` would make an equal instance from."""
    return {"name": type(instance).registered_name, **plain(instance.config)}


def plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON-ready dicts and lists (infinities as "inf" and "-inf")."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return parse(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [a for a in arguments if a is not type(None)]
        return _coerce(inner[0], value, where) if len(inner) == 1 else value
    if origin is tuple and isinstance(value, (list, tuple)):
        item = arguments[0] if arguments else Any
        return tuple(_coerce(item, entry, where) for entry in value)
    if origin is typing.Literal and value not in arguments:
        raise ConfigError(f"{where}: " + unknown("choice", value, map(str, arguments)))
    if hint is float and (type(value) is int or value in ("inf", "-inf")):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r} ({type(value).__name__}).")
    return value


@functools.cache
def _load(kind: str) -> None:
    if kind in _HOMES:
        package = importlib.import_module(_HOMES[kind])
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    _load_plugins()


@functools.cache
def _load_plugins() -> None:
    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        importlib.import_module(entry.value)
