"""What the refinement of a COCO file is named by."""

from __future__ import annotations

from pathlib import Path

from pipeline.coco.model import CocoDataset
from pipeline.files.identity import hash_file, hash_text, stamps_of
from pipeline.sam.weights import identify_weights
from pipeline.workflow.experiment import RefineOnly
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.graph import STAGES, refinement_settings


def refinement_id(source: Path, dataset: CocoDataset, image_root: Path, settings: RefineOnly) -> str:
    """A name for what the refinement of a file gives: the same for the same file, images, weights and settings.

    Images are known by their size and time of change. S4MError where SAM's weights cannot be used.
    """
    names = [image.file_name for image in dataset.images]
    stamps = "\n".join(map("\t".join, zip(names, stamps_of(image_root, names), strict=True)))
    return Fingerprint(
        stage="refine",
        version=STAGES["refine"].version,
        settings={**refinement_settings(settings), "images": str(image_root.absolute())},
        inputs={
            "annotations": hash_file(source),
            "images": hash_text(stamps),
            "sam.checkpoint": identify_weights(settings.sam.model, settings.sam.checkpoint).sha256,
        },
        upstream={},
    ).id
