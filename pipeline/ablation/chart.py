"""The chart of an ablation: mask AP of every cell, a dot a seed, mean and standard deviation over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup, escape

from pipeline.ablation.cells import CEILING, SUPERVISED
from pipeline.ablation.figures import Ablation, CellFigures, Spread
from pipeline.ablation.tables import spread_text
from pipeline.report import words
from pipeline.report.charts import round_ticks

_WIDTH: Final = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 150, 110, 34, 34
"""Space around the plot, for the names of the cells and their figures."""
_ROW_PX: Final = 30

# The page's colours where the chart stands in the page, its light ones where it stands alone.
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
    """Inline SVG, which is a whole SVG file as well."""
    shown = [(cell, spread) for cell in ablation.cells if (spread := cell.spread("ap")) is not None]
    height = _TOP + _ROW_PX * len(ablation.cells) + _BOTTOM
    ticks = _ticks(shown)
    low, high = ticks[0], ticks[-1]

    def x(ap: float) -> float:
        return _LEFT + (100 * ap - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    bottom = height - _BOTTOM
    body = [f'<rect class="paper" width="{_WIDTH}" height="{height}"/>']
    for tick in ticks:
        place = x(tick / 100)
        body.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        body.append(f'<text class="tick" x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    body.append(f'<text class="tick" x="{_LEFT}" y="18">mask AP, in points; a faint dot is one seed</text>')
    for cell, spread in shown:
        if cell.key in (SUPERVISED, CEILING):
            place = x(spread.mean)
            body.append(f'<line class="level" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{bottom}"/>')
    for row, cell in enumerate(ablation.cells):
        middle = _TOP + _ROW_PX * (row + 0.5)
        body.append(_row(cell, middle))
        body += _dots(cell, middle, x)
    title = f"Mask AP of the cells of the ablation of {ablation.experiment}"
    return Markup(  # noqa: S704 - made here, of numbers and escaped text only
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ablation" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">{_STYLE}{"".join(body)}</svg>'
    )
