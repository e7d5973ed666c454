"""The page of one experiment: everything gathered, drawn and tabulated, in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.ablation import tables as ablation_tables
from pipeline.ablation.chart import chart
from pipeline.ablation.figures import Ablation
from pipeline.report import sections
from pipeline.report.extras import Extras
from pipeline.report.gather import Run
from pipeline.report.tables import class_table, precision_table

_TEMPLATES: Final = Path(__file__).parent / "templates"
_SCRIPT: Final = "page.js.html"


def render_page(run: Run, extras: Extras, ablation: Ablation | None = None) -> str:
    """The experiment's page as HTML."""
    models = run.evaluation.models if run.evaluation else ()
    rounds = run.evaluation.pseudo_labels if run.evaluation else ()
    return render(
        "report.html",
        {
            "run": run,
            "verdict": sections.verdict(run),
            "tiles": sections.tiles(run),
            "stages": sections.stage_rows(run),
            "rounds": [sections.round_quality(each) for each in rounds],
            "precision": precision_table(models) if models else None,
            "classes": class_table(models) if models else None,
            "trainings": [sections.training(key, log) for key, log in run.logs.items()],
            "notes": run.evaluation.notes if run.evaluation else (),
            "artefacts": sections.artefacts(run),
            "ablation": None if ablation is None else ablation_values(ablation),
            "extras": extras,
            "remarks": extras.remarks,
        },
    )


def ablation_values(ablation: Ablation) -> dict[str, Any]:
    """What the templates show of an ablation's accuracy."""
    return {
        "about": ablation_tables.about(ablation),
        "chart": chart(ablation),
        "accuracy": ablation_tables.accuracy_table(ablation),
        "missing": ablation_tables.missing_sentences(ablation),
    }


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template as a whole page, that UTF-8 can hold.

    Whatever comes from data is escaped, and no script but the page's own may run.
    """
    html = _environment().get_template(template).render(**values, script_hash=_script_hash())
    # File names may be bytes that are no text at all.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _script_hash() -> str:
    """The page's script as its content security policy names it."""
    script = _environment().get_template(_SCRIPT).render()
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
