"""Charts as inline SVG: drawn from numbers, coloured by the page's style sheet, each with a title in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from pipeline.presentation.curves import Point, smoothed

_WIDTH: Final = 520
_HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 32
"""Space around the plot, for the axes' numbers."""
_SMALL: Final = (240, 84)
_LETTER_PX: Final = 7.5
"""About the width of a letter of a name in a chart."""
_LONGEST_NAME: Final = 18
"""Letters of a name in a chart; keys beside charts have them whole."""


@dataclass(frozen=True)
class Distribution:
    """Counts in equal bins from 0 to 1. mean: marked where it is known. tone: `before` or `after`."""

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


def histogram(distributions: Sequence[Distribution], axis: str, title: str) -> Markup:
    """Distributions over 0..1, laid over one another."""
    most = max((max(each.counts, default=0) for each in distributions), default=0) or 1
    ticks = _ticks(0, most)
    top = max(most, ticks[-1])
    body = [_grid(ticks, top), _axis_01(axis), *(_steps(each, top) for each in distributions)]
    marked = [each for each in distributions if each.mean is not None]
    highest = max((each.mean or 0.0 for each in marked), default=0.0)
    body += [_mean_mark(each, row, is_highest=each.mean == highest) for row, each in enumerate(marked)]
    return _svg(_WIDTH, _HEIGHT, title, body)


def line_chart(lines: Sequence[Line], axis: str, title: str) -> Markup:
    """Curves over iterations: as they are, faint, and smoothed."""
    points = [point for line in lines for point in line.points]
    last = max((x for x, _ in points), default=1) or 1
    low, high = _range(points)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    body = [_grid([tick - low for tick in ticks], high - low, ticks), _axis_x(last, axis)]
    for line in lines:
        places = [(_x(x / last), _y((y - low) / (high - low))) for x, y in line.points]
        smooth = [(_x(x / last), _y((y - low) / (high - low))) for x, y in smoothed(tuple(line.points))]
        body.append(f'<g class="{_attribute(line.tone)}">{_path(places, "raw")}{_path(smooth, "curve")}</g>')
    return _svg(_WIDTH, _HEIGHT, title, body)


def sparkline(points: Sequence[Point], tone: str, title: str, *, noisy: bool = True) -> Markup:
    """One small curve without axes; what is noisy is smoothed as well."""
    width, height = _SMALL
    low, high = _range(points)
    last = max((x for x, _ in points), default=1) or 1
    span = (high - low) or 1.0

    def place(point: Point) -> Point:
        return 2 + point[0] / last * (width - 4), 4 + (1 - min(max((point[1] - low) / span, 0), 1)) * (height - 8)

    raw = _path([place(each) for each in points], "raw" if noisy else "curve")
    smooth = _path([place(each) for each in smoothed(tuple(points))], "curve") if noisy else ""
    return _svg(width, height, title, [f'<g class="{_attribute(tone)}">{raw}{smooth}</g>'])


def dumbbell(before: float | None, after: float | None, top: float, title: str) -> Markup:
    """From one figure to another on a line from 0 to `top`."""
    width, height = 150, 18
    middle = height / 2

    def place(value: float) -> float:
        return 6 + min(max(value / (top or 1), 0), 1) * (width - 12)

    body = [f'<line class="rail" x1="6" x2="{width - 6}" y1="{middle}" y2="{middle}"/>']
    if before is not None and after is not None:
        worse = " worse" if after < before else ""
        body.append(
            f'<line class="span{worse}" x1="{place(before):.1f}" x2="{place(after):.1f}" y1="{middle}" y2="{middle}"/>'
        )
    for value, tone in ((before, "before"), (after, "after")):
        if value is not None:
            body.append(f'<circle class="dot {tone}" cx="{place(value):.1f}" cy="{middle}" r="5"/>')
    return _svg(width, height, title, body)


def stacked_bar(parts: Iterable[Part], title: str) -> Markup:
    """Shares of a whole, one beside the other."""
    shown = [part for part in parts if part.count > 0]
    total = sum(part.count for part in shown) or 1
    width, height, gap = _WIDTH, 16, 2.0
    body, left = [], 0.0
    for part in shown:
        extent = part.count / total * width
        body.append(
            f'<rect class="{_attribute(part.tone)}" x="{left:.1f}" width="{max(extent - gap, 1.5):.1f}" '
            f'height="{height}" rx="3"><title>{escape(part.name)}: {part.count:,}</title></rect>'
        )
        left += extent
    return _svg(width, height, title, body)


def _svg(width: int, height: int, title: str, body: Iterable[str]) -> Markup:
    """`body` is SVG made here, of numbers and escaped text only."""
    inner = "".join(body)
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{inner}</svg>'
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    """Vertical place of a share of the plot's height; what lies outside is cut."""
    return _HEIGHT - _BOTTOM - min(max(share, 0), 1) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(places: Sequence[float], top: float, values: Sequence[float] | None = None) -> str:
    parts = []
    for place, value in zip(places, values if values is not None else places, strict=True):
        y = _y(place / top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    return "".join(parts)


def _axis_01(name: str) -> str:
    return _axis([(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)], name)


def _axis_x(last: float, name: str) -> str:
    return _axis([(tick / last, _short(tick)) for tick in _ticks(0, last) if tick <= last], name)


def _axis(ticks: Sequence[tuple[float, str]], name: str) -> str:
    y = _HEIGHT - _BOTTOM + 18
    texts = [
        f'<text class="tick" x="{_x(share):.1f}" y="{y}" text-anchor="middle">{text}</text>' for share, text in ticks
    ]
    label = f'<text class="tick axis" x="{_LEFT}" y="12">{escape(name)}</text>'
    return "".join(texts) + label


def _steps(distribution: Distribution, top: float) -> str:
    bins = len(distribution.counts)
    places: list[Point] = [(_x(0), _y(0))]
    for number, count in enumerate(distribution.counts):
        y = _y(count / top)
        places += [(_x(number / bins), y), (_x((number + 1) / bins), y)]
    places.append((_x(1), _y(0)))
    shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polygon class="area {_attribute(distribution.tone)}" points="{shape}"/>'


def _mean_mark(distribution: Distribution, row: int, *, is_highest: bool) -> str:
    """The mean as a dashed line with its name, on a line of its own so that two do not collide.

    The name of the highest goes to the right of all lines, where there is room; else to the left.
    """
    mean = distribution.mean or 0.0
    x, y = _x(mean), _TOP + 2 + 15 * row
    name = distribution.name
    shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    text = f"{shown} {mean:.3f}"
    width = len(text) * _LETTER_PX
    on_right = (is_highest and x + width < _WIDTH) or x - width < _LEFT
    anchor, shift = ("start", 6) if on_right else ("end", -6)
    return (
        f'<g class="{_attribute(distribution.tone)}"><line class="mark" x1="{x:.1f}" x2="{x:.1f}" '
        f'y1="{_TOP - 6}" y2="{_HEIGHT - _BOTTOM}"/><text class="mean" x="{x + shift:.1f}" y="{y}" '
        f'text-anchor="{anchor}">{escape(text)}</text></g>'
    )


def _path(places: Sequence[Point], css_class: str) -> str:
    if not places:
        return ""
    steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return f'<path class="{css_class}" d="M{steps}"/>'


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """From 0 to what all but the highest hundredth reach: the first steps of a training would hide the rest."""
    values = sorted(y for _, y in points)
    if not values:
        return 0.0, 1.0
    high = values[min(len(values) - 1, math.floor(len(values) * 0.99))]
    low = min(0.0, values[0])
    return low, high if high > low else low + 1


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that reach from one value to the other."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.floor(low / step)
    return [number * step for number in range(first, math.ceil(high / step - 1e-9) + 1)]


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def _attribute(text: str) -> str:
    return str(escape(text))
