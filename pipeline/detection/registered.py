"""Imports the modules of classes that configs name, and of our loaders of weights. Needs MMDetection."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout

with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
    # On import it reports optional packages that are missing.
    import mmdet.datasets
    import mmdet.engine
    import mmdet.evaluation
    import mmdet.models  # noqa: F401

from pipeline.detection import (  # noqa: F401
    backbone,
    composites,
    datasets,
    finetuning,
    hooks,
    loader_workers,
    mask2former_head,
    mask_rcnn_head,
    models,
    packing,
    parts,
    pretrained,
    sampler,
    transforms,
    wandb_curves,
)
