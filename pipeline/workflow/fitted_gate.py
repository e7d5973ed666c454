"""The gate that `refine.gate: calibrated` asks for: fitted on labelled images that the teacher did not train on.

On the images that it trained on, a teacher draws masks that it has learned by heart: a gate fitted there would
trust it too much. The first teacher is judged in every round, since students train on all labelled images.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.datasets.held_out import held_out_ids
from pipeline.detection.predicting import ImagesToLabel, PseudoLabeller, label_images
from pipeline.errors import StageError
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore
from pipeline.refinement.calibrate import CalibratedGate, calibrate
from pipeline.refinement.calibration_file import CALIBRATION, read_calibration, write_calibration
from pipeline.refinement.gate import Gate, fixed_gate
from pipeline.refinement.refining import Refinement, refine_store
from pipeline.refinement.samples import samples_of_stores
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.settings import SamSettings
from pipeline.workflow.result_files import LABELS


@dataclass(frozen=True)
class HeldOutImages:
    """COCO file and image folder of the labelled images, and the share of them that the teacher did not train on."""

    annotations: Path
    image_root: Path
    share: float


def fitted_gate(
    folder: Path,
    images: HeldOutImages,
    teacher: PseudoLabeller,
    sam: SamSettings,
    settings: RefineSettings,
    execution: Execution,
) -> CalibratedGate:
    """Fit the gate and write it into a folder; a gate that an interrupted run wrote is used again.

    Raises StageError where no image is held out, or none of them gives an instance to fit on.
    """
    path = folder / CALIBRATION
    if not path.exists():
        scratch = folder / "calibration"
        labelled = read_coco(images.annotations)
        predicted, refined = scratch / "teacher" / LABELS, scratch / "refined" / LABELS
        _label_held_out(predicted, labelled, images, teacher, execution)
        # Without a gate, so that every mask of SAM's is seen.
        refine_store(Refinement(predicted, images.image_root, sam, settings), Gate(), refined, {}, execution)
        samples = samples_of_stores(LabelStore.open(predicted), LabelStore.open(refined), labelled)
        write_calibration(path, calibrate(samples, fixed_gate(settings)))
        shutil.rmtree(scratch)
    fitted = read_calibration(path)
    execution.say(f"gate: {fitted.summary}")
    return fitted


def _label_held_out(
    store_path: Path, labelled: CocoDataset, images: HeldOutImages, teacher: PseudoLabeller, execution: Execution
) -> None:
    """Make the store of the teacher's labels of the held-out images."""
    held_out = held_out_ids([image.id for image in labelled.images], images.share)
    if not held_out:
        raise StageError(
            f"refine.gate is calibrated, but teacher.held_out = {images.share:g} of {len(labelled.images)} labelled "
            "images is none: raise teacher.held_out, give more labelled images, or set refine.gate to fixed"
        )
    store_path.parent.mkdir(parents=True, exist_ok=True)
    execution.say(f"gate: fitting on {len(held_out)} labelled images that the teacher did not train on")
    ids = [image.id for image in labelled.images if image.id in held_out]
    chosen = ImagesToLabel(images.annotations, images.image_root, ids)
    label_images("calibrate", chosen, teacher, NewStore(store_path, labelled.categories, {}), execution)
