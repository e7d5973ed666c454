"""Shows the progress of sharded work: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.compute.execution import ShardProgress
from pipeline.presentation import words
from stages.console import err

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows the progress of one piece of sharded work after another; a context manager."""

    def __init__(self) -> None:
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def __call__(self, progress: ShardProgress) -> None:
        """Show the progress of a piece of work."""
        if progress.report is None:
            self._end()
            self._bar = _Bar(progress)
        if self._bar is not None:
            self._bar.show(progress)
        if progress.done == progress.images:
            self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Bar:
    """The bar or the lines of one piece of work."""

    def __init__(self, begun: ShardProgress) -> None:
        self._counts: Counter[str] = Counter()
        self._begun = self._said = time.monotonic()
        if begun.done_before:
            err.print(f"{begun.what}: {begun.done_before:,} of {begun.images:,} images were done before")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[about]}"),
            console=err,
        )
        self._task = self._bar.add_task(
            words.visible(begun.what), total=begun.images, completed=begun.done_before, about=""
        )
        if err.is_terminal:
            self._bar.start()

    def show(self, progress: ShardProgress) -> None:
        """Add the counts of a shard, print its failed images, and update the bar or print a line."""
        if progress.report is None:
            return
        self._counts.update(progress.report.decisions)
        for name, reason in progress.report.failures.items():
            self._counts["failed"] += 1
            err.print(f"{name}: {reason}")
        now = time.monotonic()
        rate = (progress.done - progress.done_before) / max(now - self._begun, 1e-9)
        about = f"{rate:.1f} images/s" + (f", {words.figures(self._counts)}" if self._counts else "")
        self._bar.update(self._task, completed=progress.done, about=about)
        if not err.is_terminal and now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            left = (progress.images - progress.done) / rate
            done = f"{progress.done:,} of {progress.images:,} images"
            err.print(f"{progress.what}: {done}, {left:.0f} s to go, {about}")

    def stop(self) -> None:
        """Stop updating the bar."""
        if err.is_terminal:
            self._bar.stop()
