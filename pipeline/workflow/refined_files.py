"""Refines a COCO file without an experiment; an interrupted refinement continues where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution, ShardProgress, ignore
from pipeline.errors import DatasetError, Problem, StageError
from pipeline.evaluation.pseudo_labels import LabelsToMeasure, measure_pseudo_labels
from pipeline.evaluation.results import PseudoLabelResult
from pipeline.files.identity import hash_file
from pipeline.files.writing import refuse_existing
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.refinement.coco_file import RefinedFile, read_scores, rows_to_refine, write_refined
from pipeline.refinement.effect import Effect, measure_effect
from pipeline.refinement.gate import make_gate
from pipeline.refinement.refining import refine_store, refine_work
from pipeline.sam.weights import identify_weights
from pipeline.sam.worker import SamChoice
from pipeline.workflow.experiment import RefineOnly
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES
from pipeline.workflow.kept_work import image_stamps, kept_until_done
from pipeline.workflow.stage_settings import refinement_settings


@dataclass(frozen=True)
class RefinementOfFile:
    """What became of the annotations of a COCO file, and what refinement did to their masks.

    quality: their masks measured against truth, if that is known.
    """

    file: RefinedFile
    effect: Effect
    quality: PseudoLabelResult | None


def refine_coco_file(
    annotations: Path,
    images: Path,
    output: Path,
    settings: RefineOnly,
    progress: Callable[[ShardProgress], None] = ignore,
    truth: Path | None = None,
) -> RefinementOfFile:
    """Write a COCO file with its masks refined; return what became of its annotations.

    images: the folder that file names start from. truth: COCO file with true annotations of some of these images, by
    file name. Finished work stays in a folder beside `output` until that is written: the same call continues it.
    Raise StageError if `output` exists, if another process makes it, or if no image can be used; DatasetError for a
    file with problems, and for a truth of other images.
    """
    refuse_existing([output])
    dataset, scores = read_coco(annotations), read_scores(annotations)
    known = None if truth is None else same_images(read_coco(truth), dataset)
    with kept_until_done(output, "refining", refinement_id(annotations, dataset, images, settings)) as scratch:
        teacher, refined = scratch / "teacher.zarr", scratch / "refined.zarr"
        if not teacher.exists():
            write_label_store(teacher, rows_to_refine(dataset, scores), dataset.categories, {})
        execution = Execution(settings.compute, progress)
        sam = SamChoice.of(settings.sam, execution.settled, len(dataset.images))
        work = refine_work(teacher, images, refined, sam, settings.refine, make_gate(settings.refine))
        refine_store(work, refined, {}, execution)
        try:
            file = write_refined(annotations, dataset, LabelStore.open(refined), output)
        except StageError:  # no image could be used: the next run reads them again
            shutil.rmtree(scratch)
            raise
        effect = measure_effect(LabelStore.open(teacher), LabelStore.open(refined))
        measured = LabelsToMeasure(1, "predict", "refine", teacher, refined)
        quality = None if known is None else measure_pseudo_labels(measured, known, boundary=True)
        return RefinementOfFile(file, effect, quality)


def same_images(truth: CocoDataset, dataset: CocoDataset) -> CocoDataset:
    """Return the truth of those images that a dataset has too, by file name, under the ids of the dataset.

    Raise DatasetError if they have no image in common, or if the sizes of one differ.
    """
    by_name = {image.file_name: image for image in dataset.images}
    shared = {image.id: by_name[image.file_name] for image in truth.images if image.file_name in by_name}
    if not shared:
        examples = [each.images[0].file_name for each in (truth, dataset) if each.images]
        raise DatasetError(
            str(truth.path), [Problem("images", f"no file name is that of an image of {dataset.path} ({examples})")]
        )
    problems = [
        Problem(f"image {key}", f"{image.file_name} is {size[0]} x {size[1]}, in {dataset.path} {own[0]} x {own[1]}")
        for key, image in shared.items()
        if (size := (truth.image_by_id[key].width, truth.image_by_id[key].height))
        != (own := (image.width, image.height))
    ]
    if problems:
        raise DatasetError(str(truth.path), problems)
    return CocoDataset(
        path=truth.path,
        images=tuple(shared.values()),
        categories=truth.categories,
        annotations=tuple(
            msgspec.structs.replace(each, image_id=shared[each.image_id].id)
            for each in truth.annotations
            if each.image_id in shared
        ),
    )


def refinement_id(source: Path, dataset: CocoDataset, image_root: Path, settings: RefineOnly) -> str:
    """Return a name for the refinement of a file: the same for the same file, images, weights and settings.

    Images are identified by their size and time of change. Raise S4MError if SAM's weights cannot be used.
    """
    sam = settings.sam
    return Fingerprint(
        stage="refine",
        version=STAGES["refine"].version,
        settings={**refinement_settings(settings.refine, sam), "images": str(image_root.absolute())},
        inputs={
            "annotations": hash_file(source),
            "images": image_stamps(image_root, [image.file_name for image in dataset.images]),
            "sam.checkpoint": identify_weights(sam.model, sam.checkpoint).sha256,
        },
        upstream={},
    ).id
