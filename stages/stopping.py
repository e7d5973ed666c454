"""Ctrl-C and SIGTERM: a stopped command prints how to continue, and exits with the usual status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from stages.console import err

INTERRUPTED: Final = 130
TERMINATED: Final = 143
"""Exit statuses after Ctrl-C and after SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop as after Ctrl-C."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop the program in order, as Ctrl-C does, inside the context."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stoppable(what: str) -> Iterator[None]:
    """Exit with a message when the program is stopped. what: the name of the work, as `refine`."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as stop:
        sys.exit(stopped(what, stop))


def stopped(what: str, stop: KeyboardInterrupt) -> int:
    """Print that work was stopped and how to continue; return the exit status."""
    err.print(f"\n{what}: stopped, finished work is kept. Give the same command to continue.")
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
