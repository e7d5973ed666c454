"""The gate of `refine.gate: calibrated`, fitted on labelled images that the teacher did not train on.

A teacher has memorised the images that it trained on: a gate fitted on them would trust its masks too much. Every
round fits the gate with the first teacher, since students train on all labelled images.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.datasets.held_out import held_out_ids
from pipeline.detection.predicting import ImagesToLabel, Labeller, label_images
from pipeline.errors import StageError, StoreError
from pipeline.files.writing import open_atomically
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore
from pipeline.refinement.calibrate import CalibratedGate, calibrate
from pipeline.refinement.gate import Gate, fixed_gate
from pipeline.refinement.refining import refine_store, refine_work
from pipeline.refinement.samples import samples_of_stores
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import SamChoice
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.result_files import LABELS

CALIBRATION: Final = "calibration.json"
"""Name of the file of the fitted gate in the result of `refine`."""


def fitted_gate(
    experiment: Experiment, sam: SamSettings, annotations: Path, teacher: Path, folder: Path, execution: Execution
) -> CalibratedGate:
    """Fit the gate and write it into a folder, unless an interrupted run wrote it.

    sam: the SAM that refines. annotations: COCO file of the labelled images. teacher: folder of the published teacher.
    Raise StageError if no image is held out, or if no held-out image gives an instance to fit on.
    """
    path = folder / CALIBRATION
    if not path.exists():
        scratch = folder / "calibration"
        labelled = read_coco(annotations)
        predicted, refined = scratch / "teacher" / LABELS, scratch / "refined" / LABELS
        _label_held_out(experiment, labelled, Labeller(teacher, experiment.predict), predicted, execution)
        choice, images = SamChoice.of(sam, execution.settled), experiment.data.labelled_source.images
        # Without a gate, to measure every mask of SAM's.
        work = refine_work(predicted, images, refined, choice, experiment.refine, Gate())
        refine_store(work, refined, {}, execution)
        samples = samples_of_stores(LabelStore.open(predicted), LabelStore.open(refined), labelled)
        calibrated = calibrate(samples, fixed_gate(experiment.refine))
        with open_atomically(path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(calibrated), indent=1) + b"\n")
        shutil.rmtree(scratch)
    fitted = read_calibration(path)
    execution.say(f"gate: {fitted.summary}")
    return fitted


def read_calibration(path: Path) -> CalibratedGate:
    """Read a fitted gate; raise StoreError for a file without one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CalibratedGate)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a fitted gate that can be read ({error}): delete it to fit it again") from error


def _label_held_out(
    experiment: Experiment, labelled: CocoDataset, teacher: Labeller, store_path: Path, execution: Execution
) -> None:
    share, ids = experiment.teacher.held_out, [image.id for image in labelled.images]
    held_out = held_out_ids(ids, share)
    if not held_out:
        raise StageError(
            f"refine.gate is calibrated, but teacher.held_out = {share:g} of {len(ids)} labelled images holds out no "
            "image: raise teacher.held_out, give more labelled images, or set refine.gate to fixed"
        )
    store_path.parent.mkdir(parents=True, exist_ok=True)
    execution.say(f"gate: fitting on {len(held_out)} labelled images that the teacher did not train on")
    chosen = ImagesToLabel(
        labelled.path, experiment.data.labelled_source.images, [each for each in ids if each in held_out]
    )
    label_images("calibrate", chosen, teacher, NewStore(store_path, labelled.categories, {}), execution)
