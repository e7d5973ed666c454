"""Reads the log of a training as curves, thinned out for charts."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from pipeline.presentation.curves import Point, thinned

LOG: Final = "log.jsonl"
TOTAL: Final = "loss"
"""The name of the sum of all losses."""


LAST: Final = 20
"""Iterations that are averaged for the losses at the end of a training: a single batch says little."""


class RecentLosses:
    """The mean of every loss over the last iterations."""

    def __init__(self) -> None:
        self._steps: deque[Mapping[str, float]] = deque(maxlen=LAST)

    def add(self, losses: Mapping[str, float]) -> None:
        """Add an iteration."""
        self._steps.append(losses)

    def means(self) -> dict[str, float]:
        """Return the means by name; not every iteration has every loss."""
        found: dict[str, list[float]] = defaultdict(list)
        for losses in self._steps:
            for name, value in losses.items():
                found[name].append(value)
        return {name: round(sum(values) / len(values), 5) for name, values in found.items()}


class _Step(msgspec.Struct):
    """The part of a line that is drawn."""

    iteration: int
    lr: float | None = None
    losses: dict[str, float | None] = {}


@dataclass(frozen=True)
class TrainingLog:
    """The curves of a training. Points are (iteration, value), at most `MOST_POINTS` in each curve.

    last: the mean of every loss over the last iterations.
    unreadable: number of lines that cannot be read, such as the last one of an interrupted run.
    """

    iterations: int
    losses: dict[str, tuple[Point, ...]]
    learning_rate: tuple[Point, ...]
    last: Mapping[str, float]
    unreadable: int


def read_log(path: Path) -> TrainingLog | None:
    """Read the log of a training; None if the file is missing or empty."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    decoder = msgspec.json.Decoder(_Step)
    losses: dict[str, list[Point]] = defaultdict(list)
    rates: list[Point] = []
    recent = RecentLosses()
    last = unreadable = 0
    for line in lines:
        try:
            step = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable += 1
            continue
        last = max(last, step.iteration)
        _add(rates, step.iteration, step.lr)
        for name, value in step.losses.items():
            _add(losses[name], step.iteration, value)
        recent.add({name: value for name, value in step.losses.items() if value is not None and math.isfinite(value)})
    if not last:
        return None
    curves = {name: thinned(points) for name, points in losses.items() if points}
    return TrainingLog(last, curves, thinned(rates), recent.means(), unreadable)


def _add(points: list[Point], iteration: int, value: float | None) -> None:
    if value is not None and math.isfinite(value):
        points.append((float(iteration), value))
