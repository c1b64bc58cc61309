"""Optional packages: an error that says which extra of robopolicy to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from robopolicy.errors import RobopolicyError

__all__ = ["MissingExtra", "require"]


class MissingExtra(RobopolicyError, ImportError):
    """A robot was asked for whose vendor package is not installed."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingExtra: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}). "
            f"Install it with: pip install 'robopolicy[{extra}]'"
        ) from error
