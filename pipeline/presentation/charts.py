"""Draws charts as inline SVG, coloured by the page's style sheet, each with a title in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from pipeline.presentation.curves import Point, smoothed

_WIDTH: Final = 520
_HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 32
"""Margins of the plot, for the numbers of the axes."""
_SMALL: Final = (240, 84)
_LETTER_PX: Final = 7.5
_LEAST_RANGE: Final = 1e-300
"""The approximate width of a letter of a name in a chart."""
_LONGEST_NAME: Final = 18
"""The most letters of a name in a chart; the key beside the chart has the whole name."""


_LOWEST_SHARE: Final = 0.01
_NARROWEST: Final = 0.3
"""The share of the data that a histogram may leave out at its lower end, and the least range that it shows."""


@dataclass(frozen=True)
class Distribution:
    """Counts in equal bins from 0 to 1. mean: marked if it is known. tone: `before` or `after`."""

    name: str
    tone: str
    counts: Sequence[int]
    mean: float | None


@dataclass(frozen=True)
class Line:
    """A curve of (x, y) points. tone: a class of the style sheet."""

    name: str
    tone: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Part:
    """A share of a whole."""

    name: str
    tone: str
    count: int


@dataclass(frozen=True)
class _ShownRange:
    """The part of 0..1 that a chart shows."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Return the position of a value in the range, cut to 0..1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return three to six round values with their positions."""
        wanted = next(step for step in (0.05, 0.1, 0.25) if (self.high - self.low) / step < 5.5)
        first, last = math.ceil(self.low / wanted - 1e-9), math.floor(self.high / wanted + 1e-9)
        return [(self.share(index * wanted), f"{index * wanted:.4g}") for index in range(first, last + 1)]


def _shown_range(distributions: Sequence[Distribution]) -> _ShownRange:
    """Return the range, in tenths, without empty bins at its ends and without the lowest hundredth of the data."""
    lows, highs = [], []
    for each in distributions:
        total, seen = sum(each.counts), 0
        for index, count in enumerate(each.counts):
            seen += count
            if seen > _LOWEST_SHARE * total:
                lows.append(index / len(each.counts))
                break
        highs += [(index + 1) / len(each.counts) for index, count in enumerate(each.counts) if count][-1:]
    low = math.floor(10 * min(lows, default=0.0) + 1e-9) / 10
    high = math.ceil(10 * max(highs, default=1.0) - 1e-9) / 10
    if high - low < _NARROWEST:
        low, high = (max(0.0, high - _NARROWEST), high) if high > _NARROWEST else (0.0, _NARROWEST)
    return _ShownRange(low, high)


def histogram(distributions: Sequence[Distribution], axis: str, title: str) -> Markup:
    """Draw distributions over the part of 0..1 that holds nearly all of the data, one over the other."""
    shown = _shown_range(distributions)
    most = max((max(each.counts, default=0) for each in distributions), default=0) or 1
    ticks = _ticks(0, most)
    top = max(most, ticks[-1])
    below = sum(sum(each.counts[: round(shown.low * len(each.counts))]) for each in distributions)
    name = f"{axis} ({below:,} below {shown.low:g} are not shown)" if below else axis
    body = [_grid(ticks, top), _axis(shown.ticks(), name), *(_steps(each, top, shown) for each in distributions)]
    marked = [each for each in distributions if each.mean is not None]
    highest = max((each.mean or 0.0 for each in marked), default=0.0)
    body += [_mean_mark(each, row, shown, is_highest=each.mean == highest) for row, each in enumerate(marked)]
    return _svg(_WIDTH, _HEIGHT, title, body)


def line_chart(lines: Sequence[Line], axis: str, title: str) -> Markup:
    """Draw curves over iterations: the raw values faint, and smoothed."""
    points = [point for line in lines for point in line.points]
    last = max((x for x, _ in points), default=1) or 1
    low, high = _range(points)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    iterations = [(tick / last, _short(tick)) for tick in _ticks(0, last) if tick <= last]
    body = [_grid([tick - low for tick in ticks], high - low, ticks), _axis(iterations, axis)]

    def position(point: Point) -> Point:
        return _x(point[0] / last), _y((point[1] - low) / (high - low))

    body += [_curve(line.points, line.tone, position) for line in lines]
    return _svg(_WIDTH, _HEIGHT, title, body)


def sparkline(points: Sequence[Point], tone: str, title: str, *, noisy: bool = True) -> Markup:
    """Draw one small curve without axes. noisy: draw the raw values faint, and the curve smoothed."""
    width, height = _SMALL
    low, high = _range(points)
    last = max((x for x, _ in points), default=1) or 1

    def position(point: Point) -> Point:
        share = min(max((point[1] - low) / (high - low), 0), 1)
        return 2 + point[0] / last * (width - 4), 4 + (1 - share) * (height - 8)

    return _svg(width, height, title, [_curve(points, tone, position, noisy=noisy)])


def dumbbell(before: float | None, after: float | None, top: float, title: str) -> Markup:
    """Draw the step from one figure to another on a line from 0 to `top`."""
    width, height = 150, 18
    middle = height / 2

    def x(value: float) -> float:
        return 6 + min(max(value / (top or 1), 0), 1) * (width - 12)

    body = [f'<line class="rail" x1="6" x2="{width - 6}" y1="{middle}" y2="{middle}"/>']
    if before is not None and after is not None:
        worse = " worse" if after < before else ""
        body.append(f'<line class="span{worse}" x1="{x(before):.1f}" x2="{x(after):.1f}" y1="{middle}" y2="{middle}"/>')
    for value, tone in ((before, "before"), (after, "after")):
        if value is not None:
            body.append(f'<circle class="dot {tone}" cx="{x(value):.1f}" cy="{middle}" r="5"/>')
    return _svg(width, height, title, body)


def stacked_bar(parts: Iterable[Part], title: str) -> Markup:
    """Draw the parts of a whole, one beside the other."""
    shown = [part for part in parts if part.count > 0]
    total = sum(part.count for part in shown) or 1
    width, height, gap = _WIDTH, 16, 2.0
    body, left = [], 0.0
    for part in shown:
        extent = part.count / total * width
        body.append(
            f'<rect class="{escape(part.tone)}" x="{left:.1f}" width="{max(extent - gap, 1.5):.1f}" '
            f'height="{height}" rx="3"><title>{escape(part.name)}: {part.count:,}</title></rect>'
        )
        left += extent
    return _svg(width, height, title, body)


def _svg(width: int, height: int, title: str, body: Iterable[str]) -> Markup:
    """Return an SVG of `body`, which this module makes of numbers and escaped text only."""
    inner = "".join(body)
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{inner}</svg>'
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    """Return the height of a share of the plot, cut to 0..1."""
    return _HEIGHT - _BOTTOM - min(max(share, 0), 1) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(heights: Sequence[float], top: float, values: Sequence[float] | None = None) -> str:
    parts = []
    for height, value in zip(heights, values if values is not None else heights, strict=True):
        y = _y(height / top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    return "".join(parts)


def _axis(ticks: Sequence[tuple[float, str]], name: str) -> str:
    y = _HEIGHT - _BOTTOM + 18
    texts = [
        f'<text class="tick" x="{_x(share):.1f}" y="{y}" text-anchor="middle">{text}</text>' for share, text in ticks
    ]
    label = f'<text class="tick axis" x="{_LEFT}" y="12">{escape(name)}</text>'
    return "".join(texts) + label


def _steps(distribution: Distribution, top: float, shown: _ShownRange) -> str:
    bins = len(distribution.counts)
    corners: list[Point] = []
    for index in range(round(shown.low * bins), round(shown.high * bins)):
        y = _y(distribution.counts[index] / top)
        corners += [(_x(shown.share(index / bins)), y), (_x(shown.share((index + 1) / bins)), y)]
    if corners:
        corners = [(corners[0][0], _y(0)), *corners, (corners[-1][0], _y(0))]
    shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polygon class="area {escape(distribution.tone)}" points="{shape}"/>'


def _mean_mark(distribution: Distribution, row: int, shown: _ShownRange, *, is_highest: bool) -> str:
    """Draw the mean as a dashed line with its name, each name in a row of its own so that two do not overlap.

    The name of the highest mean stands to the right of its line if it fits there, the others to the left if they fit.
    """
    mean = distribution.mean or 0.0
    x, y = _x(shown.share(mean)), _TOP + 2 + 15 * row
    name = distribution.name
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    text = f"{short} {mean:.3f}"
    width = len(text) * _LETTER_PX
    on_right = (is_highest and x + width < _WIDTH) or x - width < _LEFT
    anchor, shift = ("start", 6) if on_right else ("end", -6)
    return (
        f'<g class="{escape(distribution.tone)}"><line class="mark" x1="{x:.1f}" x2="{x:.1f}" '
        f'y1="{_TOP - 6}" y2="{_HEIGHT - _BOTTOM}"/><text class="mean" x="{x + shift:.1f}" y="{y}" '
        f'text-anchor="{anchor}">{escape(text)}</text></g>'
    )


def _curve(points: Sequence[Point], tone: str, position: Callable[[Point], Point], *, noisy: bool = True) -> str:
    shown = [(points, "raw"), (smoothed(tuple(points)), "curve")] if noisy else [(points, "curve")]
    paths = ""
    for each, css_class in shown if points else ():
        steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in map(position, each))
        paths += f'<path class="{css_class}" d="M{steps}"/>'
    return f'<g class="{escape(tone)}">{paths}</g>'


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """Return the range from 0 to the 99th percentile: the first steps of a training would hide the rest."""
    values = sorted(y for _, y in points)
    if not values:
        return 0.0, 1.0
    high = values[min(len(values) - 1, math.floor(len(values) * 0.99))]
    low = min(0.0, values[0])
    # A range of less cannot be divided into steps.
    return low, high if high - low > _LEAST_RANGE else low + 1


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers that reach from one value to the other."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.floor(low / step)
    return [index * step for index in range(first, math.ceil(high / step - 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
