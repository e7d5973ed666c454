"""The page that lays experiments side by side: what they were told differently, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from pipeline.detection.training_log import TOTAL
from pipeline.errors import StageError
from pipeline.presentation import words
from pipeline.presentation.charts import Distribution, Line, histogram, line_chart
from pipeline.presentation.page import render
from pipeline.presentation.tables import (
    Heading,
    Table,
    TableCell,
    change_cell,
    points_cell,
    share_cells,
    text_cell,
    tone,
)
from pipeline.report.gather import Run, gather
from pipeline.report.sections import Tile
from pipeline.report.tables import metric_cells, metric_columns
from pipeline.workflow.experiment import WITHOUT_EFFECT, Experiment
from pipeline.workflow.workspace import Workspace

_TONES: Final = ("after", "before", "tone-1", "tone-2", "tone-3", "quiet")


@dataclass(frozen=True)
class Compared:
    """One of the experiments. settings: by dotted key, those that can change a result."""

    run: Run
    settings: Mapping[str, Any]


def compared_of(space: Workspace) -> Compared:
    """Return an experiment with those of its results that the store has."""
    results = {key: space.result(key) for key in space.fingerprints if space.is_made(key)}
    return Compared(gather(space.experiment.name, space.nodes, results), settings_of(space.experiment))


def require_comparable(experiments: Sequence[Compared]) -> None:
    """Raise StageError for fewer than two experiments, and for two of one name."""
    if len(experiments) < 2:
        raise StageError("a comparison needs two experiments or more")
    names = Counter(each.run.name for each in experiments)
    if twice := [name for name, count in names.items() if count > 1]:
        raise StageError(f"{', '.join(twice)}: the name of more than one experiment; set `name` in their files")


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """An experiment's values by dotted key, without what cannot change a result."""
    return _flattened("", experiment.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)))


def render_comparison(experiments: Sequence[Compared]) -> str:
    """The comparison as an HTML page."""
    runs = [each.run for each in experiments]
    return render(
        "compare.html",
        {
            "names": [run.name for run in runs],
            "keys": [(_tone(place), run.name) for place, run in enumerate(runs)],
            "tiles": [_tile(run) for run in runs],
            "settings": _settings_table(experiments),
            "models": _model_table(runs),
            "classes": _class_table(runs),
            "labels": _label_table(runs),
            "histogram": _histogram(runs),
            "losses": _losses(runs),
            "times": _time_table(runs),
            "missing": [sentence for run in runs for sentence in _missing(run)],
        },
    )


def _flattened(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flattened(f"{prefix}{key}.", value)
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _settings_table(experiments: Sequence[Compared]) -> Table | None:
    """The settings that differ; None where all are the same."""
    keys = list(dict.fromkeys(key for each in experiments for key in each.settings))
    absent = object()
    rows = []
    for key in keys:
        values = [each.settings.get(key, absent) for each in experiments]
        if any(value != values[0] for value in values):
            shown = (
                TableCell(words.ABSENT) if value is absent else text_cell(words.setting(value)) for value in values
            )
            rows.append((text_cell(key), *shown))
    names = (Heading(each.run.name, is_number=False) for each in experiments)
    return Table("Settings that differ", (Heading("setting", is_number=False), *names), tuple(rows)) if rows else None


def _tile(run: Run) -> Tile:
    model = run.student or run.teacher
    if model is None:
        return Tile(run.name, words.ABSENT, "not measured")
    before = run.teacher.mask.ap if run.teacher is not None and run.student is not None else None
    change = words.difference(before, model.mask.ap)
    return Tile(
        label=run.name,
        before="" if before is None else words.points(before),
        value=words.points(model.mask.ap),
        change="" if change is None else words.signed(100 * change, 1),
        tone=tone(change),
        note=f"mask AP of the {model.role}" if before is None else "mask AP, teacher → student",
    )


def _model_table(runs: Sequence[Run]) -> Table | None:
    rows = []
    for run in runs:
        model = run.student or run.teacher
        if model is not None:
            teacher = run.teacher.mask.ap if run.teacher is not None else None
            change = change_cell(teacher if run.student else None, model.mask.ap, in_points=True)
            rows.append((text_cell(run.name), points_cell(teacher), change, *metric_cells(model.mask)))
    first = (
        Heading("experiment", is_number=False),
        Heading("teacher AP"),
        Heading("gain", note="student over teacher"),
    )
    return Table("Mask AP of the last students", (*first, *metric_columns()), tuple(rows)) if rows else None


def _class_table(runs: Sequence[Run]) -> Table | None:
    """Mask AP by class of every experiment's last model; classes are the same if their names are."""
    measured = [(run.name, model) for run in runs if (model := run.student or run.teacher) is not None]
    if not measured:
        return None
    by_name = [{each.name: each.mask.ap for each in model.categories} for _, model in measured]
    names = dict.fromkeys(name for found in by_name for name in found)
    rows = tuple((text_cell(name), *(points_cell(found.get(name)) for found in by_name)) for name in names)
    columns = (Heading("class", is_number=False), *(Heading(name) for name, _ in measured))
    return Table("Mask AP of every class", columns, rows)


def _label_table(runs: Sequence[Run]) -> Table | None:
    rows = []
    for run in runs:
        if (result := run.pseudo_labels) is not None:
            before, after = result.before.paired, result.after.paired
            values = (before.mean_iou, after.mean_iou)
            boundary = (before.mean_boundary_iou, after.mean_boundary_iou)
            shares = (after.share_75, after.share_90)
            rows.append(
                (
                    text_cell(run.name),
                    *share_cells(*values),
                    change_cell(*values, in_points=False),
                    *share_cells(*boundary, *shares),
                )
            )
    columns = (
        Heading("experiment", is_number=False),
        Heading("IoU before"),
        Heading("IoU after"),
        Heading("change"),
        Heading("boundary before", note="mean boundary IoU"),
        Heading("boundary after", note="mean boundary IoU"),
        Heading("over 0.75", note="share of refined masks whose IoU reaches 0.75"),
        Heading("over 0.90", note="share of refined masks whose IoU reaches 0.90"),
    )
    return Table("Mask quality of the pseudo-labels", columns, tuple(rows)) if rows else None


def _histogram(runs: Sequence[Run]) -> Markup | None:
    shown = [
        Distribution(run.name, _tone(place), result.after.iou_histogram, result.after.paired.mean_iou)
        for place, run in enumerate(runs)
        if (result := run.pseudo_labels) is not None
    ]
    title = "Mask IoU of refined labels: " + ", ".join(f"{each.name} {words.share(each.mean)}" for each in shown)
    return histogram(shown, "refined instances by mask IoU", title) if shown else None


def _losses(runs: Sequence[Run]) -> Markup | None:
    """The loss of every experiment's last training."""
    lines = []
    for place, run in enumerate(runs):
        log = list(run.logs.values())[-1:]
        if log and TOTAL in log[0].losses:
            lines.append(Line(run.name, _tone(place), log[0].losses[TOTAL]))
    return (
        line_chart(lines, "loss of the last training by iteration", "Losses of the last trainings") if lines else None
    )


def _time_table(runs: Sequence[Run]) -> Table:
    """Seconds by stage; a result is shared where all experiments that have one have the same."""
    keys = list(dict.fromkeys(each.node.key for run in runs for each in run.stages))
    rows = []
    for key in keys:
        seals = [stage.seal if (stage := run.by_key.get(key)) else None for run in runs]
        made = [seal.id for seal in seals if seal is not None]
        shared = "the same" if len(made) > 1 and len(set(made)) == 1 else ""
        cells = (
            TableCell(words.duration(seal.seconds), seal.seconds) if seal else TableCell(words.ABSENT) for seal in seals
        )
        rows.append((text_cell(key), *cells, text_cell(shared)))
    total = (TableCell(words.duration(run.seconds), run.seconds) for run in runs)
    rows.append((text_cell("all"), *total, TableCell("")))
    columns = (Heading("stage", is_number=False), *(Heading(run.name) for run in runs))
    return Table("Time by stage", (*columns, Heading("result", is_number=False)), tuple(rows))


def _missing(run: Run) -> list[str]:
    if run.evaluation is None:
        return [f"{run.name} has not been evaluated: make evaluate EXP={run.name}"]
    return [f"{run.name}: {note}" for note in run.evaluation.notes]


def _tone(place: int) -> str:
    return _TONES[place % len(_TONES)]
