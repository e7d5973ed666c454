"""The refinement presets: what `refine.preset` fills in where the experiment says nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

REFINE_PRESETS: Final[MappingProxyType[str, dict[str, Any]]] = MappingProxyType(
    {
        # The paper's recipe to the letter: K = 3 sampled points, three candidates, highest predicted IoU.
        "s4m": {"points": 3, "choice": "predicted_iou", "gate": "none"},
        # SAMRefiner: widest point, background point, elastic box and the mask itself, refined twice.
        "samrefiner": {
            "points": 0,
            "center_point": True,
            "background_point": True,
            "box": "elastic",
            "mask_prompt": True,
            "passes": 2,
            "choice": "predicted_iou",
            "gate": "none",
        },
        # Chosen by measurement, see docs/benchmarks.md: the mask prompt decides most, zoom helps small objects.
        "best": {
            "points": 3,
            "box": "elastic",
            "mask_prompt": True,
            "passes": 1,
            "choice": "product",
            "largest_component": True,
            "zoom_below_px": 32,
            "gate": "fixed",
        },
    }
)
