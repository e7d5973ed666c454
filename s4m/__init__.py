"""S4M in Python: refine masks, run experiments, use what they made. docs/python.md describes it with examples.

Importing this package imports nothing heavy: PyTorch and MMDetection are loaded by the first call that needs them.

refine            let SAM draw the masks, boxes or soft masks of one image again
load_detector     load a trained detector, to predict on images
annotate          label a folder of images with a trained detector, as `s4m annotate`
load_experiment   read an experiment file, with values set over it
run               bring an experiment up to date, up to a stage
open_results      open the results of an experiment: labels, detectors, figures, the report
open_labels       open a label store
draw              draw versions of an image's instances side by side
Instances         the instances of one image as arrays
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.detection.loaded_detector import LoadedDetector
    from pipeline.errors import S4MError
    from pipeline.labels.array_view import Instances, draw
    from pipeline.labels.label_store import LabelStore
    from pipeline.refinement.on_arrays import refine
    from pipeline.workflow.experiment import Experiment
    from pipeline.workflow.opened_results import Report, Results
    from s4m.door import annotate, load_detector, load_experiment, open_labels, open_results, run

__all__ = [
    "Experiment",
    "Instances",
    "LabelStore",
    "LoadedDetector",
    "Report",
    "Results",
    "S4MError",
    "annotate",
    "draw",
    "load_detector",
    "load_experiment",
    "open_labels",
    "open_results",
    "refine",
    "run",
]

_HOMES: Final = {
    "Experiment": "pipeline.workflow.experiment",
    "Instances": "pipeline.labels.array_view",
    "LabelStore": "pipeline.labels.label_store",
    "LoadedDetector": "pipeline.detection.loaded_detector",
    "Report": "pipeline.workflow.opened_results",
    "Results": "pipeline.workflow.opened_results",
    "S4MError": "pipeline.errors",
    "annotate": "s4m.door",
    "draw": "pipeline.labels.array_view",
    "load_detector": "s4m.door",
    "load_experiment": "s4m.door",
    "open_labels": "s4m.door",
    "open_results": "s4m.door",
    "refine": "pipeline.refinement.on_arrays",
    "run": "s4m.door",
}
"""The module of each public name, imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
