"""Errors a user can act on: each names the culprit and the valid choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MissingCapability",
    "RobopolicyError",
    "SpecMismatch",
    "unknown",
]


class RobopolicyError(Exception):
    """Base class of every error this library raises on purpose."""


class ConfigError(RobopolicyError, ValueError):
    """A setting, name or combination of settings that cannot work."""


class SpecMismatch(RobopolicyError, ValueError):
    """Two parts (policy, environment, store, robot) disagree about observations or actions."""


class DataError(RobopolicyError, ValueError):
    """A dataset or episode that cannot be read or used as it is."""


class CheckpointError(RobopolicyError, ValueError):
    """A checkpoint that is missing, damaged, or not made for this version."""


class MissingCapability(RobopolicyError, TypeError):
    """A policy was asked for something it does not declare."""


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """Message for an unknown name: the name, close matches, and every valid choice."""
    choices = sorted(str(choice) for choice in valid)
    close = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
    listed = ", ".join(choices) if choices else "(none)"
    return f"Unknown {what} {name!r}.{hint} Valid: {listed}."
