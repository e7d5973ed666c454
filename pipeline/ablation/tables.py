"""Makes the tables and sentences of an ablation, for Markdown and for HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pipeline.ablation.figures import Ablation, CellFigures, Spread, StageSharing
from pipeline.presentation import words
from pipeline.presentation.tables import Heading, Table, TableCell, text_cell, tone

_POINTS: Final = (("mask AP", "ap"), ("AP50", "ap_50"), ("AP75", "ap_75"), ("boundary AP", "boundary_ap"))
_CITYSCAPES: Final = ("Cityscapes AP", "cityscapes_ap")
_LABELS: Final = (("labels before", "label_iou_before"), ("labels after", "label_iou_after"))

_ABSENT: Final = TableCell(words.ABSENT)
_LABELS_NOTE: Final = (
    "mean mask IoU of the pseudo-labels whose IoU with a true instance is at least 0.5 before or after refinement; "
    "the same labels therefore have another mean before another refinement"
)


def accuracy_table(ablation: Ablation) -> Table:
    """Return the accuracy of every cell, by Cityscapes' own measure too if any cell was measured by it."""
    others = _points(ablation)[1:]
    columns = (
        Heading("cell", is_number=False),
        Heading("seeds", note="the number of measured seeds"),
        Heading("mask AP", note="of the cell's last model, in points: mean ± standard deviation over the seeds"),
        Heading("gain", note="mask AP over the supervised teacher of the same seed"),
        Heading("gap closed", note="share of the difference between the supervised teacher and all labels"),
        *(Heading(name) for name, _ in others),
        *(Heading(name, note=_LABELS_NOTE) for name, _ in _LABELS),
    )
    rows = tuple(_accuracy_row(cell, [name for _, name in _points(ablation)]) for cell in ablation.cells)
    return Table("Accuracy of every cell", columns, rows)


def cell_table(ablation: Ablation) -> Table:
    """Return what every cell is."""
    rows = tuple((text_cell(cell.title), text_cell(cell.about), text_cell(cell.key)) for cell in ablation.cells)
    columns = tuple(Heading(name, is_number=False) for name in ("cell", "what it is", "name for CELLS"))
    return Table("What every cell is", columns, rows)


def sharing_table(ablation: Ablation) -> Table:
    """Return how often results are needed and made."""
    columns = (
        Heading("stage", is_number=False),
        Heading("needed", note="by a cell with a seed"),
        Heading("made"),
        Heading("time", note="to make them"),
        Heading("time saved", note="to make them again for every cell"),
        Heading("encoder runs", note="of SAM, in refinement"),
        Heading("runs saved"),
    )
    return Table("Results that the cells share", columns, tuple(map(_sharing_row, ablation.sharing)))


def sharing_sentence(ablation: Ablation) -> str:
    """Return what sharing saved in total; empty if no result is made yet."""
    if not ablation.sharing:
        return ""
    asked, made = (sum(getattr(each, name) for each in ablation.sharing) for name in ("asked", "made"))
    spent, saved = (
        words.duration(sum(getattr(each, name) for each in ablation.sharing)) for name in ("seconds", "seconds_saved")
    )
    return (
        f"The cells need {words.count(asked, 'result')}, of which {made:,} are different; these took {spent} to make. "
        f"Sharing them saves {saved}."
    )


def about(ablation: Ablation) -> str:
    """Return a sentence on what the figures are."""
    over = "with" if len(ablation.seeds) == 1 else "mean ± standard deviation over"
    settings = f" Overrides: {', '.join(ablation.settings)}." if ablation.settings else ""
    return (
        f"Mask AP of each cell's last model on the validation images, in points; {over} {_seeds(ablation.seeds)}."
        f"{settings}"
    )


def missing_sentences(ablation: Ablation) -> tuple[str, ...]:
    """Return one sentence for each cell that is not measured yet with all seeds."""
    return tuple(
        f"{cell.title} is not measured yet with {_seeds(cell.missing)}." for cell in ablation.cells if cell.missing
    )


def spread_text(spread: Spread | None, show: Callable[[float], str]) -> str:
    """Return `29.4 ± 1.2`, or the mean alone for a single seed."""
    if spread is None:
        return words.ABSENT
    if spread.deviation is None:
        return show(spread.mean)
    return f"{show(spread.mean)} ± {show(spread.deviation)}"


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _points(ablation: Ablation) -> tuple[tuple[str, str], ...]:
    """Return the figures in points, by heading and field."""
    measured = any(cell.spread(_CITYSCAPES[1]) for cell in ablation.cells)
    return (*_POINTS, _CITYSCAPES) if measured else _POINTS


def _accuracy_row(cell: CellFigures, names: Sequence[str]) -> tuple[TableCell, ...]:
    points = [_spread_cell(cell.spread(name), words.points) for name in names]
    labels = [_spread_cell(cell.spread(name), words.share) for _, name in _LABELS]
    closed = words.ABSENT if cell.gap_closed is None else f"{100 * cell.gap_closed:.0f} %".replace("-", words.MINUS)
    seeds = TableCell(str(len(cell.seeds)), len(cell.seeds))
    compared = (_gain_cell(cell.gain), TableCell(closed, cell.gap_closed))
    return (text_cell(cell.title), seeds, points[0], *compared, *points[1:], *labels)


def _gain_cell(gain: Spread | None) -> TableCell:
    if gain is None:
        return _ABSENT
    text = words.signed(100 * gain.mean, 1)
    if gain.deviation is not None:
        text += f" ± {words.points(gain.deviation)}"
    return TableCell(text, gain.mean, tone(gain.mean))


def _spread_cell(spread: Spread | None, show: Callable[[float], str]) -> TableCell:
    return TableCell(spread_text(spread, show), None if spread is None else spread.mean)


def _sharing_row(each: StageSharing) -> tuple[TableCell, ...]:
    counts = [TableCell(f"{count:,}", count) for count in (each.asked, each.made)]
    times = [TableCell(words.duration(seconds), seconds) for seconds in (each.seconds, each.seconds_saved)]
    encoded = [TableCell(f"{count:,}", count) for count in (each.encoded, each.encoded_saved)]
    return (text_cell(each.stage), *counts, *times, *(encoded if each.stage == "refine" else [_ABSENT, _ABSENT]))
