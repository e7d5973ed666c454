"""What a page shows besides figures: galleries and failures; and, where there is nothing to show, why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.coco.reading import read_coco
from pipeline.labels.label_store import LabelStore
from pipeline.report.gallery import Gallery, Round, changes, composites, disagreements
from pipeline.report.gather import Run, StageResult
from pipeline.report.sections import Failure, failed_labels, failed_targets, summed_up
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.graph import node_key
from pipeline.workflow.result_files import LABELS, PREDICTIONS, TARGETS


@dataclass(frozen=True)
class Sources:
    """Where pictures come from.

    image_root: the folder that the unlabelled images' file names start from.
    truth: COCO file of what is known of them, if anything.
    """

    image_root: Path
    truth: Path | None


@dataclass(frozen=True)
class Extras:
    """What a page shows besides figures. failed: how many images of each kind failed; `failures` has the first.

    remarks: what is not there and why, in sentences, by section of the page.
    """

    galleries: tuple[Gallery, ...] = ()
    failures: tuple[Failure, ...] = ()
    failed: str = ""
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def collect(run: Run, sources: Sources, limit: int) -> Extras:
    """Draw up to `limit` pictures of each kind, of the last round: its labels made the last student."""
    last = max((each.node.round for each in run.stages if each.node.stage == "refine"), default=1)
    stores = {
        each.node.key: LabelStore.open(each.folder / LABELS)
        for each in run.stages
        if each.node.stage in ("predict", "refine", "augment") and each.folder is not None
    }
    galleries: list[Gallery] = []
    teacher, refined = (stores.get(node_key(stage, last)) for stage in ("predict", "refine"))
    if limit and teacher is not None and refined is not None:
        galleries += _of_refinement(run, Round(teacher, refined, sources.image_root, None), sources.truth, limit)
    augmented = run.by_key.get(node_key("augment", last))
    if limit and augmented is not None and augmented.folder is not None:
        galleries.append(composites(augmented.folder, stores[augmented.node.key], limit))
    failures, failed = summed_up(_failures(run, stores))
    remarks = {
        "models": _about_models(run),
        "labels": _about_labels(run),
        "galleries": _about_galleries(run, augmented, limit),
        "training": () if run.logs else ("There is no log of a training.",),
    }
    return Extras(tuple(galleries), failures, failed, remarks)


def _failures(run: Run, stores: Mapping[str, LabelStore]) -> Iterator[Failure]:
    """All that failed, stage by stage."""
    for each in run.stages:
        if each.folder is None:
            continue
        if each.node.stage == "distill":
            yield from failed_targets(StructureStore.open(each.folder / TARGETS), each.node.key)
        elif each.node.key in stores:
            kind = "composite" if each.node.stage == "augment" else "unlabelled image"
            yield from failed_labels(stores[each.node.key], each.node.key, kind)
        elif each.node.stage == "evaluate":
            measured = run.evaluation.models if run.evaluation else ()
            for model in (model for model in measured if model.failed_images):
                store = LabelStore.open(each.folder / PREDICTIONS / model.node / LABELS)
                yield from failed_labels(store, each.node.key, "validation image")


def _of_refinement(run: Run, round_: Round, truth: Path | None, limit: int) -> list[Gallery]:
    galleries: list[Gallery] = []
    measured = run.pseudo_labels
    if measured is not None:
        known = None if truth is None else read_coco(truth)
        compared = Round(round_.teacher, round_.refined, round_.image_root, known)
        galleries.append(changes(compared, measured.most_improved, limit, harmed=False))
        galleries.append(changes(compared, measured.most_harmed, limit, harmed=True))
    return [*galleries, disagreements(round_, limit)]


def _about_models(run: Run) -> tuple[str, ...]:
    if run.evaluation is None or not run.evaluation.models:
        return ("No model was measured: that takes images with annotations in data.validation.",)
    if run.teacher is None:
        return ("No teacher was trained here, so there is none to compare the student with.",)
    return ()


def _about_labels(run: Run) -> tuple[str, ...]:
    if run.pseudo_labels is None:
        return ("The pseudo-labels were not measured: no truth is known of the unlabelled images.",)
    return ()


def _about_galleries(run: Run, augmented: StageResult | None, limit: int) -> tuple[str, ...]:
    if not limit:
        return ("There are no pictures: report.gallery is 0.",)
    remarks = []
    if run.pseudo_labels is None:
        remarks.append("Where no truth is known, what improved and what was harmed cannot be told.")
    if augmented is None or augmented.folder is None:
        reason = augmented.node.skipped if augmented is not None else ""
        remarks.append(f"There are no composites{f': {reason}' if reason else ''}.")
    return tuple(remarks)
