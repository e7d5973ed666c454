"""Imports every module whose classes configs name, so that they are in the registries. Needs MMDetection."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout

with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
    # It tells, on import, of optional packages that are not there.
    import mmdet.datasets
    import mmdet.engine
    import mmdet.evaluation
    import mmdet.models

from pipeline.detection import (
    backbone,
    datasets,
    mask2former_head,
    mask_rcnn_head,
    models,
    packing,
    sampler,
    transforms,
    wandb_curves,
)

__all__: list[str] = []

_MODULES = (mmdet.datasets, mmdet.engine, mmdet.evaluation, mmdet.models)
_OURS = (backbone, datasets, mask2former_head, mask_rcnn_head, models, packing, sampler, transforms, wandb_curves)
