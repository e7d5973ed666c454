"""Fits SAM to labelled images without an experiment."""

from __future__ import annotations

from pathlib import Path

from pipeline.adaptation.adapting import AdaptTask, adapt_sam, require_adaptable
from pipeline.adaptation.card import Adaptation
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.files.identity import hash_file
from pipeline.files.writing import refuse_existing, sync_folder
from pipeline.sam.weights import identify_weights
from pipeline.workflow.experiment import AdaptOnly
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES
from pipeline.workflow.kept_work import image_stamps, kept_until_done
from pipeline.workflow.stage_settings import adaptation_settings


def adapt_into_folder(
    annotations: Path, images: Path, output: Path, settings: AdaptOnly, execution: Execution
) -> Adaptation:
    """Write a SAM that was fitted to labelled images into a new folder; return its card.

    images: the folder that file names start from. Finished work stays beside `output` until that is written: the same
    call continues it. Raise StageError if `output` exists, or if another process makes it.
    """
    refuse_existing([output])
    require_adaptable(settings.sam.model)
    with kept_until_done(output, "adapting", _name(annotations, images, settings)) as scratch:
        task = AdaptTask(annotations, images, settings.sam, settings.refine, settings.adapt)
        adaptation = adapt_sam(task, scratch, execution)
        scratch.rename(output)
        sync_folder(output.absolute().parent)
    return adaptation


def _name(annotations: Path, images: Path, settings: AdaptOnly) -> str:
    """Return a name for the work: the same for the same labels, images, weights and settings."""
    names = [image.file_name for image in read_coco(annotations).images]
    return Fingerprint(
        stage="adapt",
        version=STAGES["adapt"].version,
        settings={
            **adaptation_settings(settings.adapt, settings.refine, settings.sam),
            "images": str(images.absolute()),
        },
        inputs={
            "annotations": hash_file(annotations),
            "images": image_stamps(images, names),
            "sam.checkpoint": identify_weights(settings.sam.model, settings.sam.checkpoint).sha256,
        },
        upstream={},
    ).id
