"""Makes the tables of measures beside COCO's: Cityscapes' instance AP, and what features know of instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipeline.evaluation.results import ModelResult
from pipeline.presentation.tables import Heading, Table, TableCell, points_cell, share_cells, text_cell
from pipeline.report.gather import Run
from pipeline.report.tables import model_names
from pipeline.structure.separation import EMBEDDING_AREA, FEATURES_AREA, TARGETS_AREA

_FEATURES: Final = (
    ("SAM's image embedding, without prompts", "distill", EMBEDDING_AREA),
    ("structural targets", "distill", TARGETS_AREA),
    ("the teacher's features", "train-teacher", FEATURES_AREA),
)


def cityscapes_table(models: Sequence[ModelResult]) -> Table | None:
    """Return Cityscapes' instance AP of every model, over all classes and of each; None if it was not measured."""
    measured = [
        (name, model.cityscapes) for name, model in zip(model_names(models), models, strict=True) if model.cityscapes
    ]
    if not measured:
        return None
    columns = [Heading("model", is_number=False), Heading("AP", note="mean over IoU 0.50 to 0.95"), Heading("AP50")]
    columns += [Heading(each.name, note=f"AP of {each.name}") for each in measured[0][1].classes]
    rows = tuple(
        (
            text_cell(name),
            points_cell(result.ap),
            points_cell(result.ap_50),
            *(points_cell(each.ap) for each in result.classes),
        )
        for name, result in measured
    )
    return Table("Cityscapes' instance AP of the models", tuple(columns), rows)


def structure_table(run: Run) -> Table | None:
    """Return how well SAM's and the teacher's features tell instances apart; None where neither was measured."""
    rows: list[tuple[TableCell, ...]] = []
    for what, node, figure in _FEATURES:
        result = run.by_key.get(node)
        value = result.seal.summary.get(figure) if result and result.seal else None
        if isinstance(value, int | float):
            rows.append((text_cell(what), *share_cells(float(value))))
    note = "the probability that a position in the same instance is more similar than one elsewhere; 0.5 is chance"
    columns = (Heading("features", is_number=False), Heading("area under curve", note=note))
    return Table("How well features tell instances apart", columns, tuple(rows)) if rows else None
