"""Makes the tables of the page: accuracy and mask quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.adaptation.card import Adaptation
from pipeline.adaptation.guard import CANDIDATES, WhoseWeights
from pipeline.evaluation.intervals import Interval, ap_interval
from pipeline.evaluation.results import CategoryResult, Metrics, ModelResult, PseudoLabelResult
from pipeline.presentation import words
from pipeline.presentation.charts import dumbbell
from pipeline.presentation.tables import Heading, Table, TableCell, change_cell, points_cell, share_cells, text_cell

_SIZES: Final = (
    ("AP", "ap", "mean over IoU 0.50 to 0.95"),
    ("AP50", "ap_50", "at IoU 0.50"),
    ("AP75", "ap_75", "at IoU 0.75"),
    ("small", "ap_small", "instances under 32 × 32 pixels"),
    ("medium", "ap_medium", "instances from 32 × 32 to 96 × 96 pixels"),
    ("large", "ap_large", "instances over 96 × 96 pixels"),
    ("recall", "ar", "average recall over IoU 0.50 to 0.95"),
)


def precision_table(models: Sequence[ModelResult]) -> Table:
    """Return the average precision of every model: of masks, of boxes, of the boundaries of masks."""
    columns = [Heading("model", is_number=False), Heading("measured on", is_number=False), *metric_columns()]
    intervals = [ap_interval(model) for model in models]
    if any(intervals):
        columns.insert(3, Heading("95 %", note="range of the AP in 95 % of the sets that are redrawn from the images"))
    rows = []
    for name, model, between in zip(model_names(models), models, intervals, strict=True):
        for kind, metrics in (("masks", model.mask), ("boxes", model.box), ("boundaries", model.boundary)):
            if metrics is not None:
                cells = [text_cell(name), text_cell(kind), *metric_cells(metrics)]
                if any(intervals):
                    cells.insert(3, _interval_cell(between if kind == "masks" else None))
                rows.append(tuple(cells))
    return Table("Average precision of the models", tuple(columns), tuple(rows))


def _interval_cell(between: Interval | None) -> TableCell:
    return TableCell("") if between is None else TableCell(words.interval(between), between[0])


_MOST_CLASSES: Final = 12


@dataclass(frozen=True)
class ConfusionTable:
    """What a model found in place of true instances. columns: found classes; rows: true classes, each with its cells.

    A cell is the count with its share of the row, 0 to 1. left_out: number of classes that are not shown.
    """

    model: str
    min_score: float
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    left_out: int


def confusion_table(model: ModelResult) -> ConfusionTable:
    """Return the confusions of a model; of many classes, those that have most confusions with another class."""
    counts = np.array(model.confusion.counts)
    classes = counts[:-1, :-1]
    wrong = classes.sum(axis=0) + classes.sum(axis=1) - 2 * classes.diagonal()
    shown = sorted(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES].tolist())
    names = [model.categories[index].name for index in shown]
    kept = counts[np.ix_([*shown, -1], [*shown, -1])]
    totals = counts.sum(axis=1)[[*shown, -1]]
    rows = tuple(
        (name, tuple((count, count / max(1, total)) for count in row))
        for name, row, total in zip([*names, "nothing"], kept.tolist(), totals.tolist(), strict=True)
    )
    return ConfusionTable(model.role, model.confusion.min_score, (*names, "missed"), rows, len(classes) - len(shown))


def metric_columns() -> tuple[Heading, ...]:
    """Return the columns for `metric_cells`."""
    return tuple(Heading(name, note=note) for name, _, note in _SIZES)


def metric_cells(metrics: Metrics) -> tuple[TableCell, ...]:
    """Return COCO's figures in points."""
    return tuple(points_cell(getattr(metrics, field)) for _, field, _ in _SIZES)


def class_table(models: Sequence[ModelResult]) -> Table:
    """Return the mask AP of every class by every model, with the change from the first to the last."""
    first, last = models[0], models[-1]
    compared = len(models) > 1
    by_model = [{each.category_id: each for each in model.categories} for model in models]
    top = max((each.mask.ap or 0.0 for each in (*first.categories, *last.categories)), default=0.0)
    columns = [Heading("class", is_number=False), Heading("instances", note="in the validation images")]
    columns += [Heading(f"{name} AP") for name in model_names(models)]
    if compared:
        columns += [Heading("change"), Heading("from teacher to student" if first.role == "teacher" else "as a line")]
    rows = []
    for category in first.categories:
        results = [found.get(category.category_id) for found in by_model]
        precisions = [each.mask.ap if each else None for each in results]
        instances = TableCell(f"{category.truths:,}", category.truths)
        cells = [text_cell(category.name), instances, *map(points_cell, precisions)]
        if compared:
            cells += _class_change(category, precisions[0], precisions[-1], top)
        rows.append(tuple(cells))
    return Table("Mask AP of every class", tuple(columns), tuple(rows))


def model_names(models: Sequence[ModelResult]) -> list[str]:
    """Return `teacher`, `student`, or `student 2` if there are several students."""
    students = sum(model.role == "student" for model in models)
    return [f"student {each.round}" if each.role == "student" and students > 1 else each.role for each in models]


def _class_change(category: CategoryResult, before: float | None, after: float | None, top: float) -> list[TableCell]:
    title = f"{category.name}: {words.points(before)} to {words.points(after)}"
    return [
        change_cell(before, after, in_points=True),
        TableCell(dumbbell(before, after, top, title), words.difference(before, after)),
    ]


def adaptation_table(card: Adaptation) -> Table:
    """Compare SAM before and after it was fitted to the labels, on held-out images."""
    columns = [Heading("teacher", note="mean mask IoU of the imitated teacher"), Heading("instances")]
    columns += [Heading("SAM as it was", note="mean IoU of its masks")]
    for each in CANDIDATES:
        columns += [Heading(f"{each}", note="mean IoU of the masks of SAM with these weights"), Heading("change")]
    rows = []
    for result in card.results:
        before = result.refined[WhoseWeights.SHIPPED]
        cells = [*share_cells(result.teacher), TableCell(f"{result.instances:,}", result.instances)]
        cells += share_cells(before)
        for each in CANDIDATES:
            after = result.refined[each]
            cells += [*share_cells(after), change_cell(before, after, in_points=False)]
        rows.append(tuple(cells))
    return Table("SAM fitted to the labels, on held-out images", tuple(columns), tuple(rows))


def quality_table(result: PseudoLabelResult) -> Table:
    """Compare masks and labels before and after refinement."""
    first, second = result.before.paired, result.after.paired
    rows = [_figure_row(name, getattr(first, field), getattr(second, field)) for name, field in _FIGURES]
    for before, after in zip(result.before.at, result.after.at, strict=True):
        where = f"IoU {before.min_iou:g}"
        rows.append(_figure_row(f"precision of labels at {where}", before.precision, after.precision))
        rows.append(_figure_row(f"recall of labels at {where}", before.recall, after.recall))
    columns = (Heading("figure", is_number=False), Heading("before"), Heading("after"), Heading("change"))
    return Table("Pseudo-labels before and after refinement", columns, tuple(rows))


_FIGURES: Final = (
    ("mean mask IoU", "mean_iou"),
    ("mean boundary IoU", "mean_boundary_iou"),
    ("masks over IoU 0.75", "share_75"),
    ("masks over IoU 0.90", "share_90"),
)


def _figure_row(name: str, before: float | None, after: float | None) -> tuple[TableCell, ...]:
    return (text_cell(name), *share_cells(before, after), change_cell(before, after, in_points=False))


def decision_table(result: PseudoLabelResult) -> Table:
    """Return the decisions of the gate, with the quality of the masks by decision."""
    columns = (
        Heading("decision", is_number=False),
        Heading("instances"),
        Heading("before", note="mean mask IoU of the instances that match a true one"),
        Heading("after", note="mean mask IoU of the instances that match a true one"),
        Heading("change"),
        Heading("boundary before", note="mean boundary IoU of the instances that match a true one"),
        Heading("boundary after", note="mean boundary IoU of the instances that match a true one"),
        Heading("right class", note="share of the instances that match a true one"),
    )
    rows = (
        (
            text_cell(_DECISION_NAMES[str(each.decision)]),
            TableCell(f"{each.instances:,}", each.instances),
            *share_cells(each.before.mean_iou, each.after.mean_iou),
            change_cell(each.before.mean_iou, each.after.mean_iou, in_points=False),
            *share_cells(each.before.mean_boundary_iou, each.after.mean_boundary_iou, each.class_accuracy),
        )
        for each in result.decisions
    )
    return Table("Decisions of the gate", columns, tuple(rows))


_DECISION_NAMES: Final = {"sam": "SAM’s mask", "teacher": "teacher’s mask kept", "dropped": "dropped"}
