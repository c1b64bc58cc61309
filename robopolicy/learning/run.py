"""Run directories: ``outputs/<task>/<policy>/<name>/seed<k>``, one configuration each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robopolicy.errors import ConfigError
from robopolicy.registry import plain

__all__ = ["differences", "open_run"]


def open_run(directory: Path, config: Mapping[str, Any], *, ignore: tuple[str, ...] = ()) -> bool:
    """Create a run directory, or find the same run in it; returns whether it is being resumed.

    Args:
        ignore: dotted keys that may change between sessions of one run.

    Raises:
        ConfigError: another configuration lives there; lists the keys that differ.
    """
    path = Path(directory) / "config.json"
    wanted = json.loads(json.dumps(plain(config)))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(wanted, indent=1))
        os.replace(partial, path)  # several ranks may open one run at once
        return False
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}); restore it, or delete {directory} to start over."
        ) from error
    differing = [line for key, line in differences(found, wanted) if key not in ignore]
    if differing:
        raise ConfigError(
            f"{directory} holds a run with another configuration:\n  - "
            + "\n  - ".join(differing)
            + "\nGive this run another name=..., or delete that directory."
        )
    return True


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys whose values differ, with a line of text each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) | set(new)):
            yield from differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix, f"{prefix}: {old!r} there, {new!r} now"
