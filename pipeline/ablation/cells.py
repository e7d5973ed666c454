"""Defines the cells of an ablation by the settings that each overrides. docs/ablation.md says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.datasets.settings import PairedData, PercentData
from pipeline.detection.settings import TeacherSettings
from pipeline.errors import StageError
from pipeline.refinement.settings import RefineSettings
from pipeline.workflow.experiment import NAME_LENGTH, Experiment
from pipeline.workflow.workspace import Workspace, settings_digest

Settings = Mapping[str, Any]
"""Values by dotted key of the experiment."""

SUPERVISED: Final = "supervised"
CEILING: Final = "ceiling"
CLASS_CHECK: Final = "class-check"
MEASURED: Final = "evaluate"
"""The node whose result gives the figures of a cell, and the last that a cell needs."""


@dataclass(frozen=True)
class Cell:
    """One row of the table. settings: returns the settings of an experiment that the cell overrides."""

    key: str
    title: str
    about: str
    settings: Callable[[Experiment], Settings]


@dataclass(frozen=True)
class Unit:
    """A cell with a seed, as an experiment of its own. overrides: all changes to the file of the experiment."""

    cell: Cell
    seed: int
    overrides: tuple[str, ...]
    space: Workspace

    def __str__(self) -> str:
        return f"{self.cell.key}, seed {self.seed}"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that it needs, in the order in which they can run."""
        return tuple(key for key in self.space.fingerprints if self.space.nodes[key].stage != "report")

    def is_made(self, key: str) -> bool:
        """Return whether the store has the result of a node, whoever made it."""
        return self.space.is_made(key)


def cells_of(experiment: Experiment, wanted: Sequence[str] = ()) -> tuple[Cell, ...]:
    """Return the wanted cells, or all that the experiment can have, in the order of the table.

    Raises StageError for an unknown or impossible cell, and for an experiment that cannot be measured.
    """
    if experiment.data.validation is None:
        raise StageError(
            "an ablation compares models on validation images: set data.validation to images with annotations"
        )
    unknown = [key for key in wanted if key not in CELLS]
    if unknown:
        raise StageError(f"{', '.join(unknown)}: no such cell; there are {', '.join(CELLS)}")
    impossible = _impossible(experiment)
    for key in impossible.keys() & set(wanted):
        raise StageError(f"{key} {impossible[key]}: leave this cell out")
    return tuple(cell for key, cell in CELLS.items() if (key in wanted if wanted else key not in impossible))


def _impossible(experiment: Experiment) -> dict[str, str]:
    """Return the cells that an experiment cannot have, with the reasons."""
    found = {}
    if isinstance(experiment.data, PairedData):
        found[CEILING] = "trains on the labels of all images, which are known only if data.annotated gives them"
    if experiment.predict.results is not None:
        found[CLASS_CHECK] = "compares features of the teacher, and the labels come from predict.results"
    return found


def overrides_of(cell: Cell, experiment: Experiment, seed: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the overrides that make one cell with one seed of an experiment, as `key=value`.

    given: the overrides of the whole ablation that can change a result. Its cells have names of their own, and so
    folders of records of their own: else pruning would take the results of the ablation before for unused.
    """
    seeded = ("data", *_SEEDED) if isinstance(experiment.data, PercentData) else _SEEDED
    settings = {
        **{f"{section}.seed": seed for section in seeded},
        **cell.settings(experiment),
        "name": _name(experiment.name, [*([settings_digest(given)] if given else []), cell.key, str(seed)]),
    }
    # JSON is YAML, whatever characters a path or a name has.
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())


def _name(experiment: str, parts: Sequence[str]) -> str:
    """Return the name of a unit; a long name of the experiment is cut, with its digest in the place of the rest."""
    ending = "-".join(["", *parts])
    if len(experiment) + len(ending) > NAME_LENGTH:
        digest = settings_digest([experiment])
        experiment = f"{experiment[: NAME_LENGTH - len(ending) - len(digest) - 1]}-{digest}"
    return f"{experiment}{ending}"


_SEEDED: Final = ("adapt", "distill", "teacher", "refine", "augment", "student")


_TEACHER_ALONE: Final = {"student.rounds": 0, "predict.results": None}


def _distilled(experiment: Experiment) -> Settings:
    return {**_distillation(experiment), **_TEACHER_ALONE}


def _distillation(experiment: Experiment) -> Settings:
    """Return the experiment's weight of distillation, or the default weight if it is 0."""
    default: float = TeacherSettings.model_fields["distillation_weight"].default
    return {"teacher.distillation_weight": experiment.teacher.distillation_weight or default}


def _ceiling(experiment: Experiment) -> Settings:
    """Train on all labels without distillation, with the iterations of a student.

    An experiment needs unlabelled images: here these are the validation images, on which nothing is predicted.
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
        "teacher.iterations": experiment.student.iterations + experiment.student.finetune_iterations,
        "teacher.held_out": 0,
        "refine.gate": "none",  # a calibrated gate needs held-out images
        **_TEACHER_ALONE,
    }


def _student(preset: str, gate: str | None = None) -> Callable[[Experiment], Settings]:
    """Train a student without composites on labels refined by a preset, whatever the experiment sets in `refine`."""

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
    return {**_student("best")(experiment), **_composites(experiment)}


def _pasted_unrefined(experiment: Experiment) -> Settings:
    return {**_student("best", "teacher")(experiment), **_composites(experiment), "augment.decisions": ["teacher"]}


def _as_paper(experiment: Experiment) -> Settings:
    """Follow the paper in everything but its iterations and sizes, which are those of the experiment."""
    return {
        **_student("s4m")(experiment),
        "distill.source": "sam",
        "distill.prompt": "point",
        "distill.inside": "uniform",
        "distill.inside_share": 0.5,
        "predict.threshold": "fixed",
        "predict.score_threshold": 0.7,
        "predict.mask_threshold": 0,
        "predict.flip_test": False,
        "augment.mode": "on-the-fly",
        "augment.views": True,
        "augment.decisions": ["sam"],
        "augment.min_score": 0,
        "student.start": "scratch",
        "student.mixture.pseudo": 1,
        "student.mixture.composites": 1,
        "student.pseudo_weight": 2,
        "student.instance_weight": "none",
        "student.class_check": "off",
        "student.uncertain_pixel_weight": 1,
    }


def _composites(experiment: Experiment) -> Settings:
    """Return the composites of the experiment, or materialised ones if it has none, and a share of them that is not 0.

    Composites of views cannot be materialised.
    """
    augment, amount = experiment.augment, experiment.student.mixture.composites or 1.0
    mode = augment.mode if augment.mode != "none" else "on-the-fly" if augment.views else "materialised"
    return {"augment.mode": mode, "student.mixture.composites": amount}


def _with(settings: Settings) -> Callable[[Experiment], Settings]:
    """Train a student with these settings, and with everything else as the experiment has it."""
    return lambda experiment: {"student.rounds": max(1, experiment.student.rounds), **settings}


def _checked(experiment: Experiment) -> Settings:
    """Check the classes of labels as the experiment does, or else correct those that are doubted."""
    action = experiment.student.class_check
    return _with({"student.class_check": "correct" if action == "off" else action})(experiment)


def _uncertain(experiment: Experiment) -> Settings:
    """Weigh uncertain pixels as the experiment does, or else by half."""
    student = experiment.student
    weight = student.uncertain_pixel_weight if student.notes_uncertain else 0.5
    return _with({"student.uncertain_pixel_weight": weight})(experiment)


def _finetuned(experiment: Experiment) -> Settings:
    """Train the student's last steps on labelled images alone: as many as the experiment says, or else a tenth.

    A student that has no fine-tuning in the experiment is trained for so many steps less before.
    """
    student = experiment.student
    last = student.finetune_iterations or max(1, student.iterations // 10)
    before = student.iterations if student.finetune_iterations else max(1, student.iterations - last)
    values = {"student.iterations": before, "student.finetune_iterations": last}
    return _with(values)(experiment)


CELLS: Final[dict[str, Cell]] = {
    cell.key: cell
    for cell in (
        Cell(
            SUPERVISED,
            "supervised",
            "the teacher on the labelled images alone",
            lambda _: {"teacher.distillation_weight": 0, **_TEACHER_ALONE},
        ),
        Cell("sd", "+ SD", "the teacher with structural distillation from SAM", _distilled),
        Cell(
            "self-training",
            "+ self-training",
            "a student on the teacher's labels as they are, without SAM",
            _student("best", "teacher"),
        ),
        Cell("pr-s4m", "+ PR (s4m)", "labels refined by the recipe of the paper instead", _student("s4m")),
        Cell("pr-best", "+ PR (best)", "labels refined by the preset best, without its gate", _student("best", "none")),
        Cell("gate", "+ gate", "the preset best with its gate", _student("best")),
        Cell("arp", "+ ARP", "composites of refined instances too", _pasted),
        Cell(
            "arp-unrefined", "ARP, unrefined", "self-training with composites of unrefined instances", _pasted_unrefined
        ),
        Cell(
            "paper",
            "as the paper",
            "the recipe of the paper: from-scratch students of SAM's masks by points",
            _as_paper,
        ),
        Cell("all", "as written", "the experiment itself", lambda _: {}),
        Cell(
            "per-class",
            "thresholds per class",
            "a threshold of the score for each class, by how many instances labelled images have",
            _with({"predict.threshold": "per-class"}),
        ),
        Cell(
            CLASS_CHECK,
            "classes checked",
            "labels whose class similar labelled instances doubt get the class of these",
            _checked,
        ),
        Cell(
            "uncertain-pixels",
            "uncertain pixels",
            "pixels that the masks of teacher and SAM disagree about count half in the mask loss",
            _uncertain,
        ),
        Cell("fine-tuning", "fine-tuning", "a last tenth of the student's steps on labelled images alone", _finetuned),
        Cell(CEILING, "all labels", "the supervised detector, trained on the labels of all images", _ceiling),
    )
}
"""All cells by key, in the order of the table."""
