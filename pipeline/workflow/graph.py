"""The stage graph of an experiment: its nodes, what each reads, and what enters each fingerprint.

`make` uses the same edges. A node is a stage in a round: `refine`, and `refine-2`, which refines the labels of the
first student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.datasets.settings import ListedData, PairedData, PercentData
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.stage_settings import (
    adaptation_settings,
    prediction_settings,
    refinement_settings,
    sam_settings,
    section_settings,
    student_settings,
    uncertain_settings,
)


@dataclass(frozen=True)
class Stage:
    """One stage of the method. Raise `version` when a change of its code or format changes the result.

    trains: whether several machines may train in it together.
    """

    name: str
    purpose: str
    version: int = 1
    trains: bool = False


STAGES: Final[dict[str, Stage]] = {
    stage.name: stage
    for stage in (
        Stage("split", "choose the labelled, unlabelled and validation images", version=2),
        Stage("adapt", "fit SAM to the labelled images", version=3),
        Stage("distill", "compute SAM's structural targets for the labelled images", version=4),
        Stage("train-teacher", "train the teacher on the labelled images", version=3, trains=True),
        Stage("predict", "let the teacher label the unlabelled images", version=2),
        Stage("refine", "sharpen the teacher's masks with SAM", version=3),
        Stage("augment", "paste refined instances into composites"),
        Stage("train-student", "train the student on labelled and refined images", trains=True),
        Stage("evaluate", "measure teacher, student and pseudo-labels", version=4),
        Stage("report", "write the HTML report", version=2),
    )
}

ABLATION: Final = "ablation"
"""Key of the content of an experiment's ablation, which the report shows."""


@dataclass(frozen=True)
class Node:
    """A stage in a round of one experiment.

    settings: values that enter the fingerprint, by dotted key.
    inputs: dotted keys whose content enters it.
    made_from: nodes whose results enter it.
    reads: every node whose result must exist first, `made_from` included.
    skipped: why this experiment skips the stage; empty if it does not.
    """

    stage: str
    round: int
    settings: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def key(self) -> str:
        """Return the name of the node in its experiment: `refine-2`."""
        return node_key(self.stage, self.round)


def plan(experiment: Experiment) -> dict[str, Node]:
    """Return all nodes of an experiment in an order in which they can run."""
    nodes = [_split(experiment), _adapt(experiment), _distill(experiment), _teacher(experiment)]
    for number in range(1, experiment.student.rounds + 1):
        nodes += [make(experiment, number) for make in (_predict, _refine, _augment, _student)]
    made = [node.key for node in nodes]
    nodes.append(_evaluate(experiment, made))
    made.append("evaluate")
    settings = section_settings("report", experiment.report)
    nodes.append(Node("report", 1, settings, (ABLATION,), made_from=tuple(made), reads=tuple(made)))
    return _without_skipped({node.key: node for node in nodes})


def node_key(stage: str, number: int) -> str:
    """Return the key of the node of a stage in a round."""
    return stage if number == 1 else f"{stage}-{number}"


def labelling_model(number: int) -> str:
    """Return the node whose model labels the unlabelled images in a round."""
    return "train-teacher" if number == 1 else node_key("train-student", number - 1)


def fingerprints(nodes: Mapping[str, Node], contents: Mapping[str, str]) -> dict[str, Fingerprint]:
    """Return the fingerprint of every node that is not skipped. `contents`: digests by dotted key."""
    made: dict[str, Fingerprint] = {}
    for key, node in nodes.items():
        if not node.skipped:
            made[key] = Fingerprint(
                stage=node.stage,
                version=STAGES[node.stage].version,
                settings=node.settings,
                inputs={name: contents[name] for name in node.inputs if name in contents},
                upstream={upstream: made[upstream].id for upstream in node.made_from},
            )
    return made


def downstream(nodes: Mapping[str, Node], key: str) -> list[str]:
    """Return the nodes that cannot run before `key` has run."""
    held = {key}
    for node in nodes.values():
        if not node.skipped and held.intersection(node.reads):
            held.add(node.key)
    return [name for name in nodes if name in held and name != key]


_SAM_INPUTS: Final = ("sam.checkpoint",)


_POOL_VERSION: Final = 1
"""Version of how one annotated set is divided: results of such a set are made again when it changes."""


def _pool_settings(experiment: Experiment) -> dict[str, Any]:
    """Return what divides one annotated set: it decides which images are labelled."""
    version = {"split.version": _POOL_VERSION}
    match experiment.data:
        case PercentData(percent=percent, seed=seed):
            return {"data.percent": percent, "data.seed": seed, **version}
        case ListedData():
            return version
        case PairedData():
            return {}


def _labelled_inputs(experiment: Experiment) -> tuple[str, ...]:
    match experiment.data:
        case PercentData():
            return ("data.annotated.annotations", "data.annotated.images")
        case ListedData():
            return ("data.annotated.annotations", "data.annotated.images", "data.labelled_list")
        case PairedData():
            return ("data.labelled.annotations", "data.labelled.images")


def _unlabelled_inputs(experiment: Experiment) -> tuple[str, ...]:
    """Return the inputs that say which images are unlabelled, beside the labelled ones; their annotations do not."""
    if isinstance(experiment.data, PairedData):
        return ("data.unlabelled.images", *_left_out_of_folder(experiment.data))
    return _labelled_inputs(experiment)


def _left_out_of_folder(data: PairedData) -> tuple[str, ...]:
    """Return the validation images as an input, if they are left out of a folder of unlabelled images."""
    return ("data.validation.images",) if data.unlabelled.annotations is None else ()


def _unlabelled_settings(experiment: Experiment) -> dict[str, Any]:
    """Return what decides which images are unlabelled, beside the inputs."""
    paired = isinstance(experiment.data, PairedData)
    return {"split.version": STAGES["split"].version} if paired else _pool_settings(experiment)


def _split(experiment: Experiment) -> Node:
    names = ("labelled", "unlabelled", "annotated", "validation")
    inputs = (*(f"data.{name}.annotations" for name in names), "data.labelled_list")
    if isinstance(experiment.data, PairedData):  # images are compared by content
        compared = ("data.labelled.images", "data.unlabelled.images")
        inputs = (*inputs, *compared, *_left_out_of_folder(experiment.data))
    settings = {key: value for key, value in _pool_settings(experiment).items() if key != "split.version"}
    return Node("split", 1, settings, inputs)


def _no_teacher(experiment: Experiment) -> str:
    """Return why no teacher is trained; empty if one is."""
    if experiment.predict.results is not None and experiment.student.start == "scratch":
        return "labels come from predict.results and student.start is scratch"
    return ""


def _no_distillation(experiment: Experiment) -> str:
    """Return why no structural targets are computed; empty if they are."""
    off = "teacher.distillation_weight is 0" if experiment.teacher.distillation_weight == 0 else ""
    return _no_teacher(experiment) or off


def _adapted_for(experiment: Experiment) -> frozenset[str]:
    """Return the stages that use SAM with weights that `adapt` has fitted."""
    adapt, used = experiment.adapt, set()
    if adapt.enabled and experiment.student.rounds and experiment.refine.gate != "teacher":
        used.add("refine")
    if adapt.enabled and adapt.for_distillation and not _no_distillation(experiment):
        used.add("distill")
    return frozenset(used)


def _adapt(experiment: Experiment) -> Node:
    skipped = "" if _adapted_for(experiment) else "no stage uses SAM with adapted weights"
    settings = adaptation_settings(experiment.adapt, experiment.refine, experiment.sam) | _pool_settings(experiment)
    if held_out := experiment.held_out_for_gate:
        settings["teacher.held_out"] = held_out
    return Node(
        "adapt",
        1,
        settings,
        (*_SAM_INPUTS, *_labelled_inputs(experiment)),
        reads=("split",),
        skipped=skipped if experiment.adapt.enabled else "adapt.enabled is false",
    )


def _distill(experiment: Experiment) -> Node:
    adapted = ("adapt",) if "distill" in _adapted_for(experiment) else ()
    return Node(
        "distill",
        1,
        section_settings("distill", experiment.distill) | sam_settings(experiment.sam) | _pool_settings(experiment),
        (*_SAM_INPUTS, *_labelled_inputs(experiment)),
        made_from=adapted,
        reads=("split", *adapted),
        skipped=_no_distillation(experiment),
    )


def _teacher(experiment: Experiment) -> Node:
    return Node(
        "train-teacher",
        1,
        section_settings("teacher", experiment.teacher) | _pool_settings(experiment),
        ("teacher.detector", "teacher.init_weights", *_labelled_inputs(experiment)),
        made_from=("distill",),
        reads=("split", "distill"),
        skipped=_no_teacher(experiment),
    )


def _predict(experiment: Experiment, number: int) -> Node:
    model = labelling_model(number)
    imported = experiment.predict.results is not None and number == 1
    settings = prediction_settings(experiment.predict) | _unlabelled_settings(experiment)
    inputs = _unlabelled_inputs(experiment)
    if experiment.predict.flip_test:
        settings |= uncertain_settings(experiment.student)
    checked = experiment.student.class_check != "off"
    if checked:
        settings["student.class_neighbours"] = experiment.student.class_neighbours
    if checked or experiment.predict.threshold == "per-class":
        settings |= _pool_settings(experiment)
        inputs = (*inputs, *_labelled_inputs(experiment))
    if imported:
        # Without a teacher, no fingerprint upstream changes with the labelled images, which are left out here.
        labelled = ("data.labelled.images",) if isinstance(experiment.data, PairedData) else ()
        inputs = ("predict.results", *inputs, *labelled)
    return Node(
        "predict",
        number,
        settings,
        tuple(dict.fromkeys(inputs)),
        made_from=() if imported else (model,),
        reads=("split",) if imported else ("split", model),
    )


def _refine(experiment: Experiment, number: int) -> Node:
    predict = node_key("predict", number)
    calibrated = experiment.refine.gate == "calibrated"
    # The first teacher in every round, because students train on all labelled images.
    judged = ("train-teacher",) if calibrated else ()
    adapted = ("adapt",) if "refine" in _adapted_for(experiment) else ()
    settings = refinement_settings(experiment.refine, experiment.sam)
    if experiment.refine.gate != "teacher":
        settings |= uncertain_settings(experiment.student)
    return Node(
        "refine",
        number,
        settings | (_pool_settings(experiment) if calibrated else {}),
        (*_SAM_INPUTS, *(_labelled_inputs(experiment) if calibrated else ())),
        made_from=(*adapted, predict, *judged),
        reads=("split", *adapted, predict, *judged),
    )


def _augment(experiment: Experiment, number: int) -> Node:
    refine = node_key("refine", number)
    skipped = ""
    if experiment.augment.mode != "materialised":
        skipped = f"augment.mode is {experiment.augment.mode}"
    elif experiment.student.composites == 0:
        skipped = "student.mixture.composites or student.unlabelled_batch_size is 0"
    labelled = experiment.augment.partners == "labelled-too"
    settings = section_settings("augment", experiment.augment, without=("mode", "views"))
    if experiment.student.class_check in (
        "correct",
        "drop",
    ):  # doubted labels are pasted with their new class, or never
        settings |= section_settings("student", experiment.student, only=("class_check", "class_agreement"))
    return Node(
        "augment",
        number,
        settings | (_pool_settings(experiment) if labelled else {}),
        _labelled_inputs(experiment) if labelled else (),
        made_from=(refine,),
        reads=("split", refine),
        skipped=skipped,
    )


def _student(experiment: Experiment, number: int) -> Node:
    refine, augment, model = node_key("refine", number), node_key("augment", number), labelling_model(number)
    student = experiment.student
    settings = student_settings(student) | _pool_settings(experiment)
    settings["student.unlabelled_batch_size"] = student.unlabelled_images  # null is a shorthand
    detector = ("student.detector",)
    if student.detector is None:
        settings["teacher.overrides"] = experiment.teacher.overrides
        detector = ("teacher.detector",)
    if experiment.augment.mode == "on-the-fly" and student.composites > 0:
        settings |= section_settings(
            "augment", experiment.augment, without=() if experiment.augment.views else ("views",)
        )
    warm = student.start == "teacher"
    return Node(
        "train-student",
        number,
        settings,
        (*detector, *(() if warm else ("teacher.init_weights",)), *_labelled_inputs(experiment)),
        made_from=(refine, augment, *((model,) if warm else ())),
        reads=("split", refine, augment, *((model,) if warm else ())),
    )


def _evaluate(experiment: Experiment, made: list[str]) -> Node:
    validation = ("data.validation.annotations", "data.validation.images", "evaluate.cityscapes")
    inputs = (*validation, "data.unlabelled.annotations")
    measured = tuple(key for key in made if not key.startswith(("adapt", "distill", "augment", "split")))
    settings = section_settings("evaluate", experiment.evaluate)
    if experiment.student.class_check != "off":
        settings["student.class_agreement"] = experiment.student.class_agreement
    return Node("evaluate", 1, settings, inputs, made_from=measured, reads=("split", *measured))


def _without_skipped(nodes: dict[str, Node]) -> dict[str, Node]:
    skipped = {key for key, node in nodes.items() if node.skipped}
    return {
        key: replace(
            node,
            made_from=tuple(name for name in node.made_from if name not in skipped),
            reads=tuple(name for name in node.reads if name not in skipped),
        )
        for key, node in nodes.items()
    }
