"""Ctrl-C and SIGTERM while a training runs: they wait for the end of the iteration, so that nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import torch
from mmengine.dist import all_reduce

ONE_STOP_SECONDS: Final = 1.0
"""Signals this close are one: `timeout` and others send theirs to a program and again to its process group."""

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Afterwards signals go where they went before: torch's launcher of processes keeps them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class StopSignals:
    """Puts the handlers of SIGINT and SIGTERM off while they are held; a second signal does not wait.

    `note` is told that a stop has to wait.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._process = os.getpid()
        self._handlers: dict[int, Handler] = {}
        self._is_held = False
        self._waiting: int | None = None
        self._first_came: float | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within it signals come here, but for those that are ignored or left to the system. In the main thread."""
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._came)
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        """From now on the first signal waits."""
        self._is_held = True

    def release(self) -> None:
        """From now on signals act as they come; one that waits does so now: its handler is called, and may raise."""
        self._is_held = False
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._handlers[number](number, None)

    def waits_in_any_process(self) -> bool:
        """Whether a signal waits in any process of a distributed training; all have to ask."""
        waits = torch.tensor(self._waiting is not None, dtype=torch.float32)
        all_reduce(waits, op="max")
        return bool(waits)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # in a loader's worker, which Ctrl-C reaches too: it goes when the process that trains does
        now = time.monotonic()
        is_first = self._first_came is None
        if self._first_came is None:
            self._first_came = now
        elif now - self._first_came < ONE_STOP_SECONDS:
            return
        if is_first and self._is_held:
            self._waiting = number
            self._note("stops after this iteration, to go on from there; once more stops at once")
        else:
            self._handlers[number](number, frame)
