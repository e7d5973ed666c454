"""Ctrl-C and SIGTERM: a command that is stopped says how to continue, and ends with the usual status."""

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
    """SIGTERM came: stop as at Ctrl-C."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While this is entered, SIGTERM stops the program as Ctrl-C does, in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stoppable(what: str) -> Iterator[None]:
    """End the program with a message when it is stopped. what: what was stopped, as `refine`."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as stop:
        sys.exit(told(what, stop))


def told(what: str, stop: KeyboardInterrupt) -> int:
    """Say that something was stopped and how to continue; return the exit status."""
    err.print(f"\n{what}: stopped, finished work is kept. Give the same command to continue.")
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
