"""Renders the page of one experiment."""

from __future__ import annotations

from pipeline.ablation.figures import Ablation
from pipeline.ablation.writing import ablation_values
from pipeline.presentation.page import render
from pipeline.report import sections
from pipeline.report.extras import Extras
from pipeline.report.gather import Run
from pipeline.report.measures import cityscapes_table, structure_table
from pipeline.report.tables import class_table, confusion_table, precision_table


def render_page(run: Run, extras: Extras, ablation: Ablation | None = None) -> str:
    """Return the page of an experiment as HTML."""
    models = run.models
    rounds = run.evaluation.pseudo_labels if run.evaluation else ()
    return render(
        "report.html",
        {
            "run": run,
            "verdict": sections.verdict(run),
            "tiles": sections.tiles(run),
            "stages": sections.stage_rows(run),
            "adaptation": None if run.adaptation is None else sections.adaptation(run.adaptation),
            "rounds": [sections.round_quality(each) for each in rounds],
            "precision": precision_table(models) if models else None,
            "classes": class_table(models) if models else None,
            "cityscapes": cityscapes_table(models),
            "structure": structure_table(run),
            "confusion": confusion_table(model) if (model := run.student or run.teacher) else None,
            "trainings": [sections.training(key, log) for key, log in run.logs.items()],
            "notes": run.evaluation.notes if run.evaluation else (),
            "artefacts": sections.provenance(run),
            "ablation": None if ablation is None else ablation_values(ablation),
            "extras": extras,
        },
    )
