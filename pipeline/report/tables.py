"""Tables of the page: accuracy, mask quality, stages; rows of cells that know what to be sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from pipeline import words
from pipeline.evaluation.results import CategoryResult, Metrics, ModelResult, PseudoLabelResult
from pipeline.report.charts import dumbbell

Sortable = float | str | None

_SIZES: Final = (
    ("AP", "ap", "mean over IoU 0.50 to 0.95"),
    ("AP50", "ap_50", "at IoU 0.50"),
    ("AP75", "ap_75", "at IoU 0.75"),
    ("small", "ap_small", "instances under 32 × 32 pixels"),
    ("medium", "ap_medium", "instances from 32 × 32 to 96 × 96 pixels"),
    ("large", "ap_large", "instances over 96 × 96 pixels"),
    ("recall", "ar", "average recall over IoU 0.50 to 0.95"),
)


@dataclass(frozen=True)
class Column:
    """A column. note: what it means, for those who ask."""

    name: str
    is_number: bool = True
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it is sorted by; tone colours a change for better or worse."""

    text: str | Markup
    value: Sortable = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption for those who cannot see what is around it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def text_cell(text: str) -> Cell:
    """A cell that is sorted as text."""
    return Cell(text, text.casefold())


def points_cell(share: float | None) -> Cell:
    """A precision, in points."""
    return Cell(words.points(share), share)


def share_cells(*values: float | None) -> tuple[Cell, ...]:
    """Shares, as of IoU."""
    return tuple(Cell(words.share(value), value) for value in values)


def change_cell(before: float | None, after: float | None, *, in_points: bool) -> Cell:
    """The change from one share to another."""
    change = words.difference(before, after)
    shown = words.signed(None if change is None else 100 * change, 1) if in_points else words.signed(change, 3)
    return Cell(shown, change, tone(change))


def tone(change: float | None, smallest: float = 0.0005) -> str:
    """`better`, `worse`, or nothing where there is hardly a change."""
    if change is None or abs(change) < smallest:
        return ""
    return "better" if change > 0 else "worse"


def model_name(model: ModelResult, students: int) -> str:
    """`teacher`, `student`, or `student 2` where there are several."""
    return f"student {model.round}" if model.role == "student" and students > 1 else model.role


def model_names(models: Sequence[ModelResult]) -> list[str]:
    """The names of all models."""
    students = sum(model.role == "student" for model in models)
    return [model_name(model, students) for model in models]


def precision_table(models: Sequence[ModelResult]) -> Table:
    """Every model by every kind of measure: of masks, of boxes, of masks' boundaries."""
    columns = (Column("model", is_number=False), Column("measured on", is_number=False))
    rows = []
    for name, model in zip(model_names(models), models, strict=True):
        for kind, metrics in (("masks", model.mask), ("boxes", model.box), ("boundaries", model.boundary)):
            if metrics is not None:
                rows.append((text_cell(name), text_cell(kind), *metric_cells(metrics)))
    return Table("Average precision of the models", (*columns, *metric_columns()), tuple(rows))


def metric_columns() -> tuple[Column, ...]:
    """Columns for `metric_cells`."""
    return tuple(Column(name, note=note) for name, _, note in _SIZES)


def metric_cells(metrics: Metrics) -> tuple[Cell, ...]:
    """COCO's figures, in points."""
    return tuple(points_cell(getattr(metrics, field)) for _, field, _ in _SIZES)


def class_table(models: Sequence[ModelResult]) -> Table:
    """Every class by every model, with the change from the first to the last."""
    first, last = models[0], models[-1]
    compared = len(models) > 1
    by_model = [{each.category_id: each for each in model.categories} for model in models]
    top = max((each.mask.ap or 0.0 for each in (*first.categories, *last.categories)), default=0.0)
    columns = [Column("class", is_number=False), Column("instances", note="in the validation images")]
    columns += [Column(f"{name} AP") for name in model_names(models)]
    if compared:
        columns += [Column("change"), Column("from teacher to student" if first.role == "teacher" else "change drawn")]
    rows = []
    for category in first.categories:
        results = [found.get(category.category_id) for found in by_model]
        precisions = [each.mask.ap if each else None for each in results]
        cells = [text_cell(category.name), Cell(f"{category.truths:,}", category.truths), *map(points_cell, precisions)]
        if compared:
            cells += _class_change(category, precisions[0], precisions[-1], top)
        rows.append(tuple(cells))
    return Table("Mask AP of every class", tuple(columns), tuple(rows))


def _class_change(category: CategoryResult, before: float | None, after: float | None, top: float) -> list[Cell]:
    title = f"{category.name}: {words.points(before)} to {words.points(after)}"
    return [
        change_cell(before, after, in_points=True),
        Cell(dumbbell(before, after, top, title), words.difference(before, after)),
    ]


def quality_table(result: PseudoLabelResult) -> Table:
    """Masks and labels before and after refinement."""
    first, second = result.before.paired, result.after.paired
    rows = [_figure_row(name, getattr(first, field), getattr(second, field)) for name, field in _FIGURES]
    for before, after in zip(result.before.at, result.after.at, strict=True):
        where = f"IoU {before.min_iou:g}"
        rows.append(_figure_row(f"precision of labels at {where}", before.precision, after.precision))
        rows.append(_figure_row(f"recall of labels at {where}", before.recall, after.recall))
    columns = (Column("figure", is_number=False), Column("before"), Column("after"), Column("change"))
    return Table("Pseudo-labels before and after refinement", columns, tuple(rows))


_FIGURES: Final = (
    ("mean mask IoU", "mean_iou"),
    ("mean boundary IoU", "mean_boundary_iou"),
    ("masks over IoU 0.75", "share_75"),
    ("masks over IoU 0.90", "share_90"),
)


def _figure_row(name: str, before: float | None, after: float | None) -> tuple[Cell, ...]:
    return (text_cell(name), *share_cells(before, after), change_cell(before, after, in_points=False))


def decision_table(result: PseudoLabelResult) -> Table:
    """What the gate decided, and what became of the masks where it did."""
    columns = (
        Column("decision", is_number=False),
        Column("instances"),
        Column("before", note="mean mask IoU of those that show a truth"),
        Column("after", note="mean mask IoU of those that show a truth"),
        Column("change"),
        Column("boundary before", note="mean boundary IoU of those that show a truth"),
        Column("boundary after", note="mean boundary IoU of those that show a truth"),
        Column("right class", note="share of those that show a truth"),
    )
    rows = (
        (
            text_cell(_DECISION_NAMES[str(each.decision)]),
            Cell(f"{each.instances:,}", each.instances),
            *share_cells(each.before.mean_iou, each.after.mean_iou),
            change_cell(each.before.mean_iou, each.after.mean_iou, in_points=False),
            *share_cells(each.before.mean_boundary_iou, each.after.mean_boundary_iou, each.class_accuracy),
        )
        for each in result.decisions
    )
    return Table("Decisions of the gate", columns, tuple(rows))


_DECISION_NAMES: Final = {"sam": "SAM’s mask", "teacher": "teacher’s mask kept", "dropped": "dropped"}
