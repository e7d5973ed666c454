"""Shows the progress of work: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from pipeline.compute.execution import ShardProgress
from pipeline.presentation import words
from stages.console import err

if TYPE_CHECKING:
    from pipeline.detection.hooks import LoggedStep

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows the progress of one piece of sharded work after another; a context manager."""

    def __init__(self) -> None:
        self._bar: _Bar | None = None
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def __call__(self, progress: ShardProgress) -> None:
        """Show the progress of a piece of work; print the failed images of a shard."""
        if progress.report is None:
            self._end()
            self._counts.clear()
            if progress.done_before:
                err.print(f"{progress.what}: {progress.done_before:,} of {progress.images:,} images were done before")
            self._bar = _Bar(progress.what, "images", progress.images, progress.done_before)
        elif self._bar is not None:
            self._counts.update(progress.report.decisions)
            for name, reason in progress.report.failures.items():
                self._counts["failed"] += 1
                err.print(f"{name}: {reason}")
            self._bar.show(progress.done, words.figures(self._counts))
        if progress.done == progress.images:
            self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TrainingDisplay:
    """Shows the progress of a training; a context manager.

    It may be pickled for the process that trains. The losses that it shows are means over the last iterations.
    """

    def __init__(self, what: str, iterations: int) -> None:
        self._what, self._iterations = what, iterations
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:  # another process showed the bar, and may have been killed
            err.show_cursor()

    def __call__(self, step: LoggedStep, recent: Mapping[str, float]) -> None:
        """Show a finished iteration."""
        if self._bar is None:
            before = step.iteration - 1
            if before:
                err.print(f"{self._what}: continuing after iteration {before:,}")
            self._bar = _Bar(self._what, "iterations", self._iterations, before, step.seconds)
        losses = ", ".join(f"{name} {recent[name]:.3f}" for name in sorted(recent, key=lambda name: name != "loss"))
        is_last = step.iteration == self._iterations
        self._bar.show(step.iteration, losses, whatever_the_time=is_last)
        if is_last:
            self._bar.stop()


class _AboutColumn(ProgressColumn):
    """The text about a task, cut to what fits into the line."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["about"], no_wrap=True, overflow="ellipsis")


class _Bar:
    """The bar or the lines of one piece of work.

    unit: of its parts, in the plural. seconds: how long it has been running, where that is not from now on.
    """

    def __init__(self, what: str, unit: str, total: int, done_before: int, seconds: float = 0.0) -> None:
        self._what, self._unit, self._total, self._done_before = what, unit, total, done_before
        self._said = time.monotonic()
        self._begun = self._said - seconds
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            _AboutColumn(Column(no_wrap=False)),  # the first column that gives way where the line is too long
            console=err,
        )
        self._task = self._bar.add_task(words.visible(what), total=total, completed=done_before, about="")
        if err.is_terminal:
            self._bar.start()

    def show(self, done: int, about: str, *, whatever_the_time: bool = False) -> None:
        """Update the bar, or print a line if the last one is long ago."""
        now = time.monotonic()
        rate = max((done - self._done_before) / max(now - self._begun, 1e-9), 1e-9)
        speed = f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        text = f"{speed}, {about}" if about else speed
        self._bar.update(self._task, completed=done, about=text)
        if not err.is_terminal and (whatever_the_time or now - self._said > SECONDS_BETWEEN_LINES):
            self._said = now
            left = words.duration((self._total - done) / rate)
            err.print(f"{self._what}: {done:,} of {self._total:,} {self._unit}, {left} to go, {text}")

    def stop(self) -> None:
        """Stop updating the bar."""
        if err.is_terminal:
            self._bar.stop()
