"""The calls of `s4m` that find things by name, or run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.compute.settings import Device
from pipeline.detection.loaded_detector import LoadedDetector
from pipeline.labels.label_store import LabelStore
from pipeline.refinement.settings import RefinePreset
from pipeline.workflow.annotating import Annotated, AnnotateRequest
from pipeline.workflow.annotating import annotate as annotate_images
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.finding import ModelRole, detector_folder, experiment_path, label_store_path
from pipeline.workflow.loading import annotate_only
from pipeline.workflow.loading import load_experiment as load_experiment_file
from pipeline.workflow.opened_results import Results
from stages.options import as_overrides, workspace
from stages.progress import ProgressDisplay
from stages.runner import run_up_to


def load_experiment(experiment: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment. experiment: a file, or a name in `configs/experiments`.

    overrides: values set over the file, as `refine.points=5`. Raise ExperimentError with every problem.
    """
    return load_experiment_file(experiment_path(str(experiment)), overrides)


def run(experiment: str | Path | Experiment, until: str = "report", overrides: Sequence[str] = ()) -> Results:
    """Bring an experiment up to date, and print what runs and why, as the commands do; return its results.

    until: the last stage to run, as `refine`; it and all that it needs are run where they are missing or stale. Call
    this in the main thread. An interruption (Ctrl-C) keeps finished work: the same call continues.
    """
    space = workspace(_loaded(experiment, overrides))
    run_up_to(space, until)
    return Results(space)


def open_results(experiment: str | Path | Experiment, overrides: Sequence[str] = ()) -> Results:
    """Open the results of an experiment that are up to date with these settings. Nothing is run.

    Images count as unchanged since they were last read.
    """
    return Results(workspace(_loaded(experiment, overrides), trust_images=True))


def open_labels(store: str | Path, overrides: Sequence[str] = ()) -> LabelStore:
    """Open a label store: its folder, the result it lies in, or `EXPERIMENT:NODE` as in `mine:refine`."""
    return LabelStore.open(label_store_path(str(store), overrides))


def load_detector(model: str | Path, role: ModelRole = "student", device: Device = "auto") -> LoadedDetector:
    """Load a trained detector: the folder that holds it, wherever it was copied, or the experiment that trained it.

    role: which detector of an experiment.
    """
    return LoadedDetector(detector_folder(str(model), role).resolve(), device)


def annotate(
    model: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    score: float = 0.5,
    refine: RefinePreset | None = None,
    settings: Sequence[str] = (),
) -> Annotated:
    """Label a folder of images with a trained detector, as the command `s4m annotate` does.

    model: as for `load_detector`. output: COCO JSON, or a label store if its name ends in `.zarr`. score: leave out
    instances with a lower class score. refine: let SAM sharpen the masks, by this preset. settings: as
    `sam.model=vit_b` or `compute.workers=4`.
    """
    asked = {"predict.score_threshold": score, "refine.preset": refine}
    wanted = annotate_only([*as_overrides(asked), *settings])
    request = AnnotateRequest(detector_folder(str(model)), Path(images), Path(output), refine is not None)
    with ProgressDisplay() as progress:
        return annotate_images(request, wanted, progress)


def _loaded(experiment: str | Path | Experiment, overrides: Sequence[str]) -> Experiment:
    return experiment if isinstance(experiment, Experiment) else load_experiment(experiment, overrides)
