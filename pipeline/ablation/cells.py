"""The cells of an ablation: what each sets over the experiment. docs/ablation.md says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.datasets.settings import PairedData, PercentData
from pipeline.detection.settings import TeacherSettings
from pipeline.errors import StageError
from pipeline.refinement.settings import RefineSettings
from pipeline.workflow.experiment import Experiment

Settings = Mapping[str, Any]
"""Values by dotted key of the experiment."""

SUPERVISED: Final = "supervised"
CEILING: Final = "ceiling"


@dataclass(frozen=True)
class Cell:
    """One row of the table. settings: what it sets over an experiment."""

    key: str
    title: str
    about: str
    settings: Callable[[Experiment], Settings]


def cells_of(experiment: Experiment, wanted: Sequence[str] = ()) -> tuple[Cell, ...]:
    """The cells that are asked for, or all that the experiment can have, in the table's order.

    Raises StageError for a cell that is unknown or impossible here, and where nothing can be measured.
    """
    if experiment.data.validation is None:
        raise StageError(
            "an ablation compares models on validation images: set data.validation to images with annotations"
        )
    unknown = [key for key in wanted if key not in CELLS]
    if unknown:
        raise StageError(f"{', '.join(unknown)}: no such cell; there are {', '.join(CELLS)}")
    if CEILING in wanted and isinstance(experiment.data, PairedData):
        raise StageError(
            "ceiling trains on the labels of all images, which are known only where data.annotated gives them: "
            "leave this cell out"
        )
    possible = [cell for cell in CELLS.values() if cell.key != CEILING or not isinstance(experiment.data, PairedData)]
    return tuple(cell for cell in possible if not wanted or cell.key in wanted)


def overrides_of(cell: Cell, experiment: Experiment, seed: int) -> tuple[str, ...]:
    """What to set over an experiment for one cell with one seed, as `key=value`."""
    seeded = ("data", *_SEEDED) if isinstance(experiment.data, PercentData) else _SEEDED
    settings = {
        **{f"{section}.seed": seed for section in seeded},
        **cell.settings(experiment),
        "name": f"{experiment.name}-{cell.key}-{seed}",
    }
    # JSON is YAML, whatever a path or a name may hold.
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())


_SEEDED: Final = ("distill", "teacher", "refine", "augment", "student")


def _supervised(_: Experiment) -> Settings:
    return {"teacher.distillation_weight": 0, **_TEACHER_ALONE}


_TEACHER_ALONE: Final = {"student.rounds": 0, "predict.results": None}


def _distilled(experiment: Experiment) -> Settings:
    return {**_distillation(experiment), **_TEACHER_ALONE}


def _distillation(experiment: Experiment) -> Settings:
    """Distillation as the experiment has it; where it has none, with the default weight."""
    default: float = TeacherSettings.model_fields["distillation_weight"].default
    return {"teacher.distillation_weight": experiment.teacher.distillation_weight or default}


def _ceiling(experiment: Experiment) -> Settings:
    """All labels, no distillation, as many iterations as a student; validation images play the unlabelled ones.

    Nothing is predicted on those, but an experiment must have some.
    """
    data = experiment.data
    assert data.validation is not None and not isinstance(data, PairedData)  # by `cells_of`
    return {
        "data.annotated": None,
        "data.percent": None,
        "data.seed": None,
        "data.labelled_list": None,
        "data.labelled.annotations": str(data.annotated.annotations),
        "data.labelled.images": str(data.annotated.images),
        "data.unlabelled.annotations": str(data.validation.annotations),
        "data.unlabelled.images": str(data.validation.images),
        "teacher.distillation_weight": 0,
        "teacher.iterations": experiment.student.iterations,
        "teacher.held_out": 0,
        "refine.gate": "none",  # a calibrated one needs held-out images
        **_TEACHER_ALONE,
    }


def _student(preset: str, gate: str | None = None) -> Callable[[Experiment], Settings]:
    """A student on labels refined by a preset, whatever the experiment says of refinement; no composites."""

    def settings(experiment: Experiment) -> Settings:
        chosen = {"preset": preset} if gate is None else {"preset": preset, "gate": gate}
        values = RefineSettings.model_validate(chosen).model_dump(mode="json", exclude={"seed"})
        return {
            **_distillation(experiment),
            **{f"refine.{key}": value for key, value in values.items()},
            "augment.mode": "none",
            "student.rounds": max(1, experiment.student.rounds),
        }

    return settings


def _pasted(experiment: Experiment) -> Settings:
    """With composites as the experiment has them, materialised where it has none."""
    mode = experiment.augment.mode
    return {
        **_student("best")(experiment),
        "augment.mode": "materialised" if mode == "none" else mode,
        **_composites(experiment),
    }


def _pasted_unrefined(experiment: Experiment) -> Settings:
    return {
        **_student("best", "teacher")(experiment),
        "augment.mode": "materialised",
        "augment.decisions": ["teacher"],
        **_composites(experiment),
    }


def _composites(experiment: Experiment) -> Settings:
    """Their part of the student's mixture, which must not be nothing."""
    return {"student.mixture.composites": experiment.student.mixture.composites or 1.0}


def _as_written(_: Experiment) -> Settings:
    return {}


CELLS: Final[dict[str, Cell]] = {
    cell.key: cell
    for cell in (
        Cell(SUPERVISED, "supervised", "the teacher on the labelled images alone", _supervised),
        Cell("sd", "+ SD", "the teacher with structural distillation from SAM", _distilled),
        Cell(
            "self-training",
            "+ self-training",
            "a student on the teacher's labels as they are, without SAM",
            _student("best", "teacher"),
        ),
        Cell("pr-s4m", "+ PR (s4m)", "labels refined by the paper's recipe instead", _student("s4m")),
        Cell("pr-best", "+ PR (best)", "labels refined by the preset best, without its gate", _student("best", "none")),
        Cell("gate", "+ gate", "the preset best with its gate", _student("best")),
        Cell("arp", "+ ARP", "composites of refined instances as well", _pasted),
        Cell(
            "arp-unrefined", "ARP, unrefined", "self-training with composites of unrefined instances", _pasted_unrefined
        ),
        Cell("all", "as written", "the experiment itself", _as_written),
        Cell(CEILING, "all labels", "the supervised detector, trained on the labels of all images", _ceiling),
    )
}
"""All cells by key, in the table's order."""
