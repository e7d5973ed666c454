"""Annotates a folder of images with a trained detector, and with SAM on request.

An interrupted run continues where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.compute.execution import Execution, ShardProgress, ignore
from pipeline.datasets.listing import write_names
from pipeline.detection.predicting import ImagesToLabel, Labeller, label_images
from pipeline.detection.published import CONFIG, WEIGHTS, PublishedDetector, read_published
from pipeline.errors import StageError, some_of
from pipeline.files.identity import IMAGE_ENDINGS, hash_file, list_images
from pipeline.files.writing import refuse_existing
from pipeline.labels.coco_export import export_dataset
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore
from pipeline.labels.picture_work import draw_store
from pipeline.refinement.effect import Effect, measure_effect
from pipeline.refinement.gate import make_gate
from pipeline.refinement.refining import refine_store, refine_work
from pipeline.sam.weights import identify_weights
from pipeline.sam.worker import SamChoice
from pipeline.workflow.experiment import AnnotateOnly
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES
from pipeline.workflow.kept_work import image_stamps, kept_until_done
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.stage_settings import prediction_settings, refinement_settings

STORE_ENDING: Final = ".zarr"


@dataclass(frozen=True)
class AnnotateRequest:
    """What to annotate, and what to write.

    model: the folder of a trained detector. images: a folder, with its subfolders. output: a COCO file, or a label
    store if its name ends in `.zarr`. refine: let SAM sharpen the masks. pictures: a folder for drawings, or None.
    """

    model: Path
    images: Path
    output: Path
    refine: bool = False
    pictures: Path | None = None


@dataclass(frozen=True)
class Annotated:
    """What was annotated.

    counts: of images and instances. failures: why images were left out, by file name. effect: what SAM did to the
    masks, None without it.
    """

    counts: Mapping[str, int]
    failures: Mapping[str, str]
    effect: Effect | None


def annotate(
    request: AnnotateRequest, settings: AnnotateOnly, progress: Callable[[ShardProgress], None] = ignore
) -> Annotated:
    """Write the labels that a trained detector gives to a folder of images.

    Finished work stays in a folder beside the output until that is written: the same call continues it. Raise
    StageError if the output exists, if another process makes it, or if no image can be used.
    """
    refuse_existing([request.output])
    job = _Job(request, settings, _image_names(request.images), read_published(request.model))
    execution = Execution(settings.compute, progress)
    with kept_until_done(request.output, "annotating", job.fingerprint.id) as scratch:
        drawing = scratch / "drawing"
        if request.pictures is not None and not drawing.exists() and _is_used(request.pictures):
            refuse_existing([request.pictures])
        found = _found(job, scratch, execution)
        path = _refined(job, found, scratch, execution) if request.refine else found
        store = LabelStore.open(path)
        effect = measure_effect(LabelStore.open(found), store) if request.refine else None
        failures = {row.file_name: row.message for row in store.failed()}
        if len(failures) == len(store):
            shutil.rmtree(scratch)  # the next run reads the images again
            reasons = some_of([f"{name}: {reason}" for name, reason in failures.items()])
            raise StageError(f"{request.images}: no image could be used: {reasons}")
        if request.pictures is not None:
            drawing.touch()
            draw_store(path, request.images, request.pictures, execution)
        if request.output.suffix == STORE_ENDING:
            path.rename(request.output)
        else:
            export_dataset(store, request.output)
    return Annotated(store.counts(), failures, effect)


@dataclass(frozen=True)
class _Job:
    """A request with its settings, the names of its images, and its detector."""

    request: AnnotateRequest
    settings: AnnotateOnly
    names: Sequence[str]
    published: PublishedDetector

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Return what the labels are made from: the same for the same detector, images, weights and settings.

        Images are identified by their size and time of change. Raise S4MError if SAM's weights cannot be used.
        """
        sam, settings = self.settings.sam, prediction_settings(self.settings.predict)
        inputs = {
            "detector.weights": hash_file(self.published.folder / WEIGHTS),
            "detector.config": hash_file(self.published.folder / CONFIG),
            "images": image_stamps(self.request.images, self.names),
        }
        if self.request.refine:
            settings |= refinement_settings(self.settings.refine, sam)
            inputs["sam.checkpoint"] = identify_weights(sam.model, sam.checkpoint).sha256
        settings["images"] = str(self.request.images.absolute())
        return Fingerprint("predict", STAGES["predict"].version, settings, inputs, upstream={})

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the label stores."""
        return {"fingerprint": self.fingerprint.to_dict()}


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder of images")
    names = list_images(folder)
    if not names:
        raise StageError(f"{folder}: there is no image in this folder ({', '.join(sorted(IMAGE_ENDINGS))})")
    return names


def _is_used(folder: Path) -> bool:
    """Return whether something of another run or of the user's own is in the place of a folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _found(job: _Job, scratch: Path, execution: Execution) -> Path:
    """Make the detector's labels of all images; return their store."""
    path, listing = scratch / "found" / LABELS, scratch / "names.json"
    if not listing.exists():
        write_names(listing, job.names)
    images = ImagesToLabel(listing, job.request.images, range(1, len(job.names) + 1))
    store = NewStore(path, job.published.card.categories, job.provenance)
    label_images("annotate", images, Labeller(job.request.model, job.settings.predict), store, execution)
    return path


def _refined(job: _Job, found: Path, scratch: Path, execution: Execution) -> Path:
    """Refine the labels; return their store."""
    path, settings = scratch / "refined" / LABELS, job.settings
    sam = SamChoice.of(settings.sam, execution.settled)
    work = refine_work(found, job.request.images, path, sam, settings.refine, make_gate(settings.refine))
    refine_store(work, path, job.provenance, execution)
    return path
