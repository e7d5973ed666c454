"""The page of an ablation, and what other pages show of it."""

from __future__ import annotations

from typing import Any

from pipeline.ablation import tables
from pipeline.ablation.chart import chart
from pipeline.ablation.figures import Ablation
from pipeline.presentation.page import render


def ablation_values(ablation: Ablation) -> dict[str, Any]:
    """What the templates show of an ablation's accuracy."""
    return {
        "about": tables.about(ablation),
        "chart": chart(ablation),
        "accuracy": tables.accuracy_table(ablation),
        "missing": tables.missing_sentences(ablation),
    }


def ablation_page(ablation: Ablation) -> str:
    """The ablation's own page as HTML."""
    return render(
        "ablation.html",
        {
            "name": ablation.experiment,
            **ablation_values(ablation),
            "cells": tables.cell_table(ablation),
            "sharing": tables.sharing_table(ablation),
            "saved": tables.sharing_sentence(ablation),
        },
    )
