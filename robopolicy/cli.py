"""One command line for every script: ``python scripts/<verb>.py group=choice key=value``.

    @command(config="train", purpose="Train a policy from demonstrations.", examples=["... task=lift"])
    def main(config: dict[str, Any]) -> None: ...

    if __name__ == "__main__":
        main()

SIGTERM, which job schedulers send, is taken like Ctrl-C.

Exit codes: 0 done, 1 the command failed, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from robopolicy.compose import compose, sweep
from robopolicy.errors import ConfigError, RobopolicyError, unknown
from robopolicy.memory import keep_memory
from robopolicy.multirun import run_all
from robopolicy.usage import usage

__all__ = ["FLAGS", "TRACEBACK", "command"]

FLAGS = ("--help", "--print", "--multirun", "--jobs")
TRACEBACK = "ROBOPOLICY_TRACEBACK"


def command(
    *, config: str, purpose: str, examples: Sequence[str] = (), directory: Path | None = None
) -> Callable[[Callable[[dict[str, Any]], None]], Callable[..., None]]:
    """Turn ``main(config)`` into a command: ``main()`` reads ``sys.argv``, ``main([...])`` the list.

    Args:
        config: name of the root yaml.
        purpose: one or two sentences, for ``--help``.
        examples: whole command lines, for ``--help``.
        directory: where the yaml files are; the library's own by default.
    """

    def decorate(function: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def main(argv: Sequence[str] | None = None) -> None:
            try:
                arguments = _parse(sys.argv[1:] if argv is None else argv)
                if arguments.help:
                    _show(usage(config, purpose, examples, arguments.overrides, directory) + "\n")
                    return
                if arguments.multirun:
                    runs = sweep(arguments.overrides, directory)
                    for overrides in runs:  # a typo is found before the first run starts
                        compose(config, overrides, directory=directory)
                    code = run_all(runs, arguments.jobs)
                    if code:
                        sys.exit(code)
                    return
                composed = compose(config, arguments.overrides, directory=directory)
            except RobopolicyError as error:
                _fail(error, 2, f"\nSee {_script()} --help.")
            if arguments.print:
                import yaml

                _show(yaml.safe_dump(composed, sort_keys=False, default_flow_style=None))
                return
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.default_int_handler)
            keep_memory()
            try:
                with _plain_warnings():
                    function(composed)
            except RobopolicyError as error:
                _fail(error, 1, f"\n({TRACEBACK}=1 shows where.)")
            except OSError as error:  # a full disk, a path without permission: nothing a traceback explains
                _fail(error, 1, f"\n({TRACEBACK}=1 shows where.)")
            except KeyboardInterrupt:
                print("\nInterrupted.", file=sys.stderr)
                sys.exit(130)

        return main

    return decorate


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Inside, a warning to the user is told on a line of its own, without the line of code it comes from."""
    before = warnings.formatwarning

    def told(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is UserWarning and os.environ.get(TRACEBACK) != "1":
            return f"\nwarning: {message}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = told
    try:
        yield
    finally:
        warnings.formatwarning = before


def _show(text: str) -> None:
    """Print it; what reads it, such as ``head``, may have seen enough before its end."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception, code: int, advice: str) -> NoReturn:
    if os.environ.get(TRACEBACK) == "1":
        raise error
    print(f"error: {error}{advice}", file=sys.stderr)
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message[:1].upper() + message[1:] + ".")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    arguments, rest = parser.parse_known_args(argv)
    for text in rest:
        if text.startswith("-"):
            meant = difflib.get_close_matches(text.split("=")[0].lstrip("-"), [flag[2:] for flag in FLAGS], 1)
            plain = text.lstrip("-")
            hint = f" Settings have no dashes: {plain}." if "=" in text and not meant else ""
            raise ConfigError(unknown("flag", text, FLAGS) + hint)
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {arguments.jobs}.")
    if arguments.jobs > 1 and not arguments.multirun:
        raise ConfigError("--jobs is for several runs: add -m.")
    arguments.overrides = rest
    return arguments


def _script() -> str:
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else sys.argv[0]
