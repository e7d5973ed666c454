"""Delays Ctrl-C and SIGTERM to the end of an iteration of a training, so that nothing is lost."""

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
"""Signals this close count as one: `timeout` and others signal a program and then its process group."""

Handler = Callable[[int, FrameType | None], object]


class StopSignals:
    """Delays the handlers of SIGINT and SIGTERM while signals are held; a second signal is not delayed.

    note: called with a message when a stop is delayed.
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
        """Handle the signals that have a Python handler here, within this context. Call it in the main thread."""
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
        """Delay the first signal from now on."""
        self._is_held = True

    def release(self) -> None:
        """Stop delaying signals; the handler of a delayed one is called now, and may raise."""
        self._is_held = False
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._handlers[number](number, None)

    def waits_in_any_process(self) -> bool:
        """Return whether a signal is delayed in any process of a distributed training; all processes must call this."""
        waits = torch.tensor(self._waiting is not None, dtype=torch.float32)
        all_reduce(waits, op="max")
        return bool(waits)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker, which Ctrl-C reaches too; it ends with the process that trains
        now, first_came = time.monotonic(), self._first_came
        if first_came is None:
            self._first_came = now
        elif now - first_came < ONE_STOP_SECONDS:
            return
        if first_came is None and self._is_held:
            self._waiting = number
            self._note("stopping after this iteration, so that training can resume; stop again to stop at once")
        else:
            self._handlers[number](number, frame)
