"""Collects the galleries and failures of a report, and the reasons for what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipeline.coco.reading import read_coco
from pipeline.labels.label_store import LabelStore
from pipeline.presentation import words
from pipeline.refinement.effect import Effect
from pipeline.report.detections import ValidationImages, detections
from pipeline.report.gallery import Gallery, Round, changes, composites, disagreements
from pipeline.report.gather import Run, StageResult
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.graph import node_key
from pipeline.workflow.result_files import LABELS, PREDICTIONS, TARGETS

_MOST_FAILURES: Final = 50


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, or a composite that could not be made. kind: which set the image is of."""

    kind: str
    stage: str
    file_name: str
    reason: str


@dataclass(frozen=True)
class Extras:
    """The galleries and failures of a page. failures: the first ones; failed: the number of all, by kind.

    remarks: sentences on what is missing and why, by section of the page.
    """

    galleries: tuple[Gallery, ...] = ()
    failures: tuple[Failure, ...] = ()
    failed: str = ""
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportImages:
    """Where the images of a report come from.

    image_root: the folder of the unlabelled images. truth: COCO file of their true annotations, if known.
    validation: COCO file and folder of the validation images, if there are any.
    """

    image_root: Path
    truth: Path | None = None
    validation: tuple[Path, Path] | None = None


def collect(run: Run, images: ReportImages, limit: int) -> Extras:
    """Draw up to `limit` images of each kind, from the last round, whose labels the last student was trained on."""
    last = max((each.node.round for each in run.stages if each.node.stage == "refine"), default=1)
    stores = {
        each.node.key: LabelStore.open(each.folder / LABELS)
        for each in run.stages
        if each.node.stage in ("predict", "refine", "augment") and each.folder is not None
    }
    galleries = list(_of_detections(run, images.validation, limit)) if limit else []
    measured = run.pseudo_labels
    teacher, refined = (stores.get(node_key(stage, last)) for stage in ("predict", "refine"))
    if limit and teacher is not None and refined is not None:
        known = None if images.truth is None or measured is None else read_coco(images.truth)
        labels = Round(teacher, refined, images.image_root, known)
        if measured is not None:
            galleries.append(changes(labels, measured.most_improved, limit, harmed=False))
            galleries.append(changes(labels, measured.most_harmed, limit, harmed=True))
        galleries.append(disagreements(labels, limit))
    augmented = run.by_key.get(node_key("augment", last))
    if limit and augmented is not None and augmented.folder is not None:
        galleries.append(composites(augmented.folder, stores[augmented.node.key], limit))
    failures, failed = _summed_up(_failures(run, stores))
    remarks = {
        "models": _about_models(run),
        "labels": ()
        if measured
        else ("The pseudo-labels are not measured: the unlabelled images have no known truth.",),
        "harm": _about_harm(run, last),
        "galleries": _about_galleries(run, augmented, limit),
        "training": () if run.logs else ("There is no training log.",),
    }
    return Extras(tuple(galleries), failures, failed, remarks)


def _of_detections(run: Run, validation: tuple[Path, Path] | None, limit: int) -> Iterator[Gallery]:
    """Yield the gallery of the last model's detections, if it was measured."""
    model, evaluated = run.student or run.teacher, run.by_key.get("evaluate")
    if validation is None or model is None or evaluated is None or evaluated.folder is None:
        return
    annotations, image_root = validation
    store = LabelStore.open(evaluated.folder / PREDICTIONS / model.node / LABELS)
    yield detections(model, ValidationImages(read_coco(annotations), image_root, store), limit)


def _about_harm(run: Run, last: int) -> tuple[str, ...]:
    """Return what refinement did that looks like harm, in the last round."""
    refined = run.by_key.get(node_key("refine", last))
    effect = None if refined is None or refined.seal is None else Effect.of_figures(refined.seal.summary)
    return () if effect is None else tuple(f"{line[0].upper()}{line[1:].strip()}." for line in effect.warnings())


def _failures(run: Run, stores: Mapping[str, LabelStore]) -> Iterator[Failure]:
    for each in run.stages:
        key = each.node.key
        if each.folder is None:
            continue
        if each.node.stage == "distill":
            yield from _failed("labelled image", key, StructureStore.open(each.folder / TARGETS))
        elif key in stores:
            yield from _failed("composite" if each.node.stage == "augment" else "unlabelled image", key, stores[key])
        elif each.node.stage == "evaluate":
            for model in run.models:
                if model.failed_images:
                    predictions = LabelStore.open(each.folder / PREDICTIONS / model.node / LABELS)
                    yield from _failed("validation image", key, predictions)


def _failed(kind: str, stage: str, store: LabelStore | StructureStore) -> Iterator[Failure]:
    for row in store.failed():
        yield Failure(kind, stage, row.file_name, row.message)


def _summed_up(failures: Iterable[Failure]) -> tuple[tuple[Failure, ...], str]:
    """Return the first failures, each image once however many stages it failed in, and the number of each kind."""
    first: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        first.setdefault((failure.kind, failure.file_name), failure)
    kinds = Counter(kind for kind, _ in first)
    counted = ", ".join(words.count(count, kind) for kind, count in kinds.items())
    if len(first) > _MOST_FAILURES:
        counted += f"; the first {_MOST_FAILURES} are listed"
    return tuple(first.values())[:_MOST_FAILURES], counted


def _about_models(run: Run) -> tuple[str, ...]:
    if not run.models:
        return ("No model was measured: set data.validation to images with annotations.",)
    return () if run.teacher else ("This experiment trained no teacher to compare the student with.",)


def _about_galleries(run: Run, augmented: StageResult | None, limit: int) -> tuple[str, ...]:
    if not limit:
        return ("There are no images: report.gallery is 0.",)
    remarks = []
    if run.pseudo_labels is None:
        remarks.append("Improved and harmed masks are not shown: the unlabelled images have no known truth.")
    if augmented is None or augmented.folder is None:
        reason = augmented.node.skipped if augmented is not None else ""
        remarks.append(f"There are no composites{f': {reason}' if reason else ''}.")
    return tuple(remarks)
