"""Configurations: Hydra's compose API behind one function whose errors name the valid choices.

A group that a policy brings along (``- /network: mlp`` in ``configs/policy/diffusion.yaml``) goes by its own
name, ``network=unet network.embedding=128``: Hydra alone would ask for ``network@policy.network=unet
policy.network.embedding=128``, which works too.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from robopolicy.errors import ConfigError, unknown

__all__ = ["choices", "compose", "config_directory", "options", "parse_overrides", "sweep"]


def config_directory() -> Path:
    """Where the yaml files are: inside an installed package, beside it in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def compose(root: str, overrides: Iterable[str] = (), *, directory: Path | None = None) -> dict[str, Any]:
    """The configuration ``<root>.yaml`` with overrides (``policy=diffusion``, ``trainer.steps=5``).

    Interpolations are resolved and the result is plain dicts, lists and scalars. A group without a choice
    is None.

    Raises:
        ConfigError: an unknown group choice or key (lists the valid ones), an override that cannot be read,
            or a required value that is missing.
    """
    directory = directory or config_directory()
    parsed = parse_overrides(overrides)
    for override in parsed:
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line!r} means several runs: add -m to make them, "
                "or write a list as key=[a,b] and text as key='\"a,b\"'."
            )
    groups, values = _resolve_groups(root, parsed, directory)
    composed, known = _hydra(root, groups, directory)
    values = [_placed(override, composed, known) for override in values]
    for override in values:
        if not (override.is_add() or override.is_force_add()):
            _check_key(composed, override, directory, known)
    # Hydra takes a key for a group wherever there is a directory of that name: those are set afterwards.
    named = [o for o in values if (directory / o.key_or_group).is_dir()]
    if others := [str(override.input_line) for override in values if override not in named]:
        composed, _ = _hydra(root, [*groups, *others], directory)
    composed = copy.deepcopy(composed) if named else composed
    for override in named:
        OmegaConf.update(composed, override.key_or_group, override.value())
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no default: give {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    unset = {group: None for group, choice in known.items() if choice is None and "@" not in group}
    return {**unset, **cast(dict[str, Any], plain)}


def choices(
    root: str, overrides: Iterable[str] = (), *, directory: Path | None = None
) -> dict[str, str | None]:
    """The choices that a composition makes: ``{"policy": "diffusion", "network@policy.network": "mlp"}``.

    After ``@`` stands where in the configuration the choice goes, if that is not the group's own name.
    """
    directory = directory or config_directory()
    groups, _ = _resolve_groups(root, parse_overrides(overrides), directory)
    return dict(_hydra(root, groups, directory)[1])


def options(group: str, directory: Path | None = None) -> list[str]:
    """Every choice of a group, by name."""
    home = (directory or config_directory()) / group
    return sorted(path.relative_to(home).with_suffix("").as_posix() for path in home.rglob("*.yaml"))


def sweep(overrides: Iterable[str], directory: Path | None = None) -> list[list[str]]:
    """Every combination of overrides like ``seed=0,1``, ``seed=range(3)`` and ``task=glob(*)``, in order.

    Raises:
        ConfigError: an override that cannot be read or enumerated.
    """
    axes = []
    for override in parse_overrides(overrides):
        if not override.is_sweep_override():
            axes.append([str(override.input_line)])
            continue
        found: Iterable[str]
        if isinstance(override.value(), Glob):
            found = cast(Glob, override.value()).filter(options(override.key_or_group, directory))
        else:
            try:
                found = list(override.sweep_string_iterator())
            except HydraException as error:
                raise ConfigError(f"{override.input_line!r}: {_first_line(error)}") from error
        axes.append([f"{override.get_key_element()}={value}" for value in found])
        if not axes[-1]:
            raise ConfigError(f"{override.input_line!r} matches nothing.")
    return [list(combination) for combination in itertools.product(*axes)]


def parse_overrides(overrides: Iterable[str]) -> list[Override]:
    """Hydra's override grammar.

    Raises:
        ConfigError: names the override that cannot be read.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            reason = str(getattr(error, "message", None) or error).splitlines()[0]
            raise ConfigError(f"Cannot read {text!r} ({reason}). Overrides are key=value.") from error
    return parsed


def _resolve_groups(
    root: str, overrides: list[Override], directory: Path
) -> tuple[list[str], list[Override]]:
    """Split group choices, under the names Hydra wants, from values."""
    pending = [o for o in overrides if (directory / o.key_or_group).is_dir() and not o.is_delete()]
    values = [o for o in overrides if o not in pending]
    resolved: list[str] = []
    while pending:
        config, known = _hydra(root, resolved, directory)
        # A choice may bring further groups along or take them away, so the root's own groups come first.
        ready = [o for o in pending if o.is_add() or o.key_or_group in known]
        ready = ready or [o for o in pending if _matching(known, o.key_or_group)]
        if not ready and (plain := [o for o in pending if o.key_or_group in config]):
            values += plain  # elsewhere a group, here a setting of the same name
            pending = [o for o in pending if o not in plain]
            continue
        if not ready:
            name = pending[0].key_or_group
            valid = {key.partition("@")[0] for key in known}
            chosen = ", ".join(f"{k.partition('@')[0]}={v}" for k, v in known.items())
            raise ConfigError(f"{unknown('group', name, valid)} (With {chosen}.)")
        for override in ready:
            value, group = override.value(), override.key_or_group
            if value is not None and value not in (valid_names := options(group, directory)):
                raise ConfigError(unknown(group, str(value), valid_names))
            if override.is_add():
                resolved.append(str(override.input_line))
            for key in _matching(known, group):
                if value is not None:
                    resolved.append(f"{key}={value}")
                elif known[key] is not None:
                    resolved.append(f"~{key}")
            pending.remove(override)
    return resolved, values


def _matching(known: Mapping[str, str | None], group: str) -> list[str]:
    return [key for key in known if key.partition("@")[0] == group]


def _placed(override: Override, config: DictConfig, groups: Mapping[str, str | None]) -> Override:
    """``network.width=8`` as the ``policy.network.width=8`` that is meant."""
    group, dot, _ = override.key_or_group.partition(".")
    places = [key.partition("@")[2] for key in _matching(groups, group) if "@" in key]
    if not dot or group in config or len(places) != 1:
        return override
    return parse_overrides([str(override.input_line).replace(group, places[0], 1)])[0]


def _check_key(
    config: DictConfig, override: Override, directory: Path, groups: Mapping[str, str | None]
) -> None:
    """Raise unless every part of a dotted key exists in the configuration."""
    node: Any = config
    parts = override.key_or_group.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if not isinstance(node, DictConfig):
            raise ConfigError(f"{override.key_or_group!r} cannot be set: {above} is {node!r}.")
        if part not in node.keys():  # noqa: SIM118 - `in` denies keys whose value is missing
            if depth:
                hint = f" A setting that the yaml leaves at its default is given as +{override.input_line}."
                raise ConfigError(unknown(f"key of {above}", part, map(str, node)) + hint)
            if part in groups:
                what = f"{override.key_or_group!r} cannot be set: no {part} is chosen"
                raise ConfigError(f"{what}. Valid: {', '.join(options(part, directory))}.")
            raise ConfigError(unknown("key", part, {*map(str, node), *(g.partition("@")[0] for g in groups)}))
        node = None if OmegaConf.is_missing(node, part) else node._get_node(part)
        if not isinstance(node, DictConfig) and node is not None:
            node = node._value()


def _hydra(root: str, overrides: list[str], directory: Path) -> tuple[DictConfig, dict[str, str | None]]:
    """A composition, and the group choices made in it; neither is to be changed."""
    if not (directory / f"{root}.yaml").is_file():
        raise ConfigError(unknown("configuration", root, (path.stem for path in directory.glob("*.yaml"))))
    written = frozenset((path, path.stat().st_mtime_ns) for path in directory.rglob("*.yaml"))
    return _composed(root, tuple(overrides), directory, written)


@functools.lru_cache(maxsize=256)
def _composed(
    root: str, overrides: tuple[str, ...], directory: Path, written: frozenset[tuple[Path, int]]
) -> tuple[DictConfig, dict[str, str | None]]:
    """Kept until a file changes: one command asks for the same several times, a tenth of a second each."""
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(directory.resolve())):
            config = hydra.compose(root, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error)) from error
    made = cast(dict[str, str | None], OmegaConf.to_container(config.hydra.runtime.choices))
    with open_dict(config):
        del config["hydra"]
    return config, {key: choice for key, choice in made.items() if not key.startswith("hydra/")}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
