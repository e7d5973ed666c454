"""Draws the chart of an ablation: the mask AP of every cell, a dot for each seed, with mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from markupsafe import Markup, escape

from pipeline.ablation.cells import CEILING, SUPERVISED
from pipeline.ablation.figures import Ablation, CellFigures
from pipeline.ablation.tables import spread_text
from pipeline.presentation import words

_WIDTH: Final = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 150, 110, 34, 34
"""Margins of the plot, for the names of the cells and their figures."""
_ROW_PX: Final = 30

# The colours of the page if the chart is part of one, else those of the light theme.
_STYLE: Final = """<style>
.ablation { font: 12.5px ui-sans-serif, system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
.ablation .paper { fill: var(--card, #ffffff); }
.ablation .grid { stroke: var(--line, #e7e4dc); }
.ablation .tick { fill: var(--soft, #64615a); font-size: 12px; }
.ablation .name, .ablation .value { fill: var(--ink, #1d1c1a); }
.ablation .value { font-variant-numeric: tabular-nums; }
.ablation .level { stroke: var(--before, #b8700a); stroke-dasharray: 4 4; }
.ablation .range { stroke: var(--after, #0b7f78); stroke-width: 2.5; opacity: .5; stroke-linecap: round; }
.ablation .seed { fill: var(--soft, #64615a); opacity: .45; }
.ablation .mean { fill: var(--after, #0b7f78); stroke: var(--card, #ffffff); stroke-width: 1.5; }
</style>"""


def chart(ablation: Ablation) -> Markup:
    """Draw the chart as inline SVG, which is a complete SVG file too."""
    height = _TOP + _ROW_PX * len(ablation.cells) + _BOTTOM
    bottom = height - _BOTTOM
    ticks = _ticks(ablation)

    def x(ap: float) -> float:
        return _LEFT + (100 * ap - ticks[0]) / (ticks[-1] - ticks[0]) * (_WIDTH - _LEFT - _RIGHT)

    body = [f'<rect class="paper" width="{_WIDTH}" height="{height}"/>']
    for tick in ticks:
        at = x(tick / 100)
        body.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        body.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{tick}</text>')
    body.append(f'<text class="tick" x="{_LEFT}" y="18">mask AP, in points; each faint dot is a seed</text>')
    for cell in ablation.cells:
        if cell.key in (SUPERVISED, CEILING) and (spread := cell.spread("ap")) is not None:
            at = x(spread.mean)
            body.append(f'<line class="level" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
    for row, cell in enumerate(ablation.cells):
        body += _row(cell, _TOP + _ROW_PX * (row + 0.5), x)
    title = f"Mask AP of the cells of the ablation of {ablation.experiment}"
    return Markup(  # noqa: S704 - made of numbers and escaped text only
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ablation" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">{_STYLE}{"".join(body)}</svg>\n'
    )


def _row(cell: CellFigures, middle: float, x: Callable[[float], float]) -> Iterator[str]:
    spread = cell.spread("ap")
    text_y = f"{middle + 4:.1f}"
    yield f'<text class="name" x="{_LEFT - 16}" y="{text_y}" text-anchor="end">{escape(cell.title)}</text>'
    value = spread_text(spread, words.points)
    yield f'<text class="value" x="{_WIDTH - 10}" y="{text_y}" text-anchor="end">{value}</text>'
    if spread is None:
        return
    around = spread.deviation or 0.0
    yield (
        f'<line class="range" x1="{x(spread.mean - around):.1f}" x2="{x(spread.mean + around):.1f}" '
        f'y1="{middle}" y2="{middle}"/>'
    )
    for each in cell.seeds:
        if each.ap is not None:
            yield f'<circle class="seed" cx="{x(each.ap):.1f}" cy="{middle}" r="3.5"/>'
    yield f'<circle class="mean" cx="{x(spread.mean):.1f}" cy="{middle}" r="5.5"/>'


def _ticks(ablation: Ablation) -> list[int]:
    """Return round numbers of points, from below the lowest to above the highest value in the chart."""
    drawn: list[float] = []
    for cell in ablation.cells:
        if (spread := cell.spread("ap")) is not None:
            around = spread.deviation or 0.0
            drawn += [
                spread.mean - around,
                spread.mean + around,
                *(each.ap for each in cell.seeds if each.ap is not None),
            ]
    points = [100 * value for value in (drawn or [0.0, 0.1])]
    span = max(points) - min(points)
    step = next((step for step in (1, 2, 5, 10) if span / step <= 8), 20)
    first, last = math.floor(min(points) / step), math.ceil(max(points) / step)
    return [step * index for index in range(first, max(last, first + 1) + 1)]
