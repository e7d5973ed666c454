"""The refinement presets: the values of `refine` that each `refine.preset` has other than `best`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

REFINE_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # Chosen by measurement, see docs/benchmarks.md. These are the defaults of RefineSettings themselves.
        "best": {},
        # The paper's recipe to the letter: K = 3 sampled points, three candidates, highest predicted IoU.
        "s4m": {
            "box": "none",
            "mask_prompt": False,
            "choice": "predicted_iou",
            "smoothing_cells": 0,
            "largest_component": False,
            "gate": "none",
            "zoom_below_px": 0,
        },
        # SAMRefiner: widest point, background point, elastic box and the mask itself, refined twice.
        "samrefiner": {
            "points": 0,
            "center_point": True,
            "background_point": True,
            "passes": 2,
            "choice": "predicted_iou",
            "smoothing_cells": 0,
            "largest_component": False,
            "gate": "none",
            "zoom_below_px": 0,
        },
    }
)
