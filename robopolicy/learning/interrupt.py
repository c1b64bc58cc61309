"""Ctrl-C, or a polite kill, where a checkpoint would not be exact."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from tqdm import tqdm

__all__ = ["interrupt_held", "saved_when_interrupted"]


@contextlib.contextmanager
def interrupt_held(note: str = "") -> Iterator[None]:
    """Let a first Ctrl-C or SIGTERM wait for the end, where a checkpoint is exact; a second one ends at once.

    Outside the main thread none arrives.

    Args:
        note: said at the first one, where leaving may take a while.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def hold(number: int, frame: object) -> None:
        if arrived:
            raise _AtOnce
        arrived.append(number)
        if note:
            tqdm.write(note)

    previous = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _AtOnce:
        raise SystemExit(130) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


@contextlib.contextmanager
def saved_when_interrupted(save: Callable[[], None], where: Callable[[], str]) -> Iterator[None]:
    """Save on Ctrl-C, say so, and let it through.

    Args:
        where: how far the run is, in words.
    """
    try:
        yield
    except KeyboardInterrupt:
        save()
        tqdm.write(f"Interrupted at {where()}: checkpoint saved. The same command resumes.")
        raise


class _AtOnce(BaseException):
    pass
