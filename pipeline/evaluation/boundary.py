"""Boundary IoU of many pairs of masks: each mask's border is found once, in the part of the image it takes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.evaluation.matching import Bools, Floats
from pipeline.masks.overlap import boundary_width_px, inner_boundary
from pipeline.masks.run_lengths import CompressedRle
from pipeline.masks.windows import Window, window_around


@dataclass(frozen=True)
class Border:
    """The inner border of a mask: bool (height, width) of the window that the mask takes up."""

    window: Window
    pixels: Bools
    area: int

    @classmethod
    def of_rle(cls, rle: CompressedRle) -> Border:
        """The border that boundary IoU looks at, of a mask of a whole image."""
        height, width = rle["size"]
        x, y, box_width, box_height = (float(value) for value in coco_mask.toBbox(rle))
        window = window_around((x, y, x + box_width, y + box_height))
        crop = np.ascontiguousarray(coco_mask.decode(rle)[window.y0 : window.y1, window.x0 : window.x1])
        pixels = inner_boundary(crop.astype(np.bool_), boundary_width_px(height, width))
        return cls(window, pixels, int(np.count_nonzero(pixels)))

    def shared_with(self, other: Border) -> int:
        """How many pixels both have."""
        both = self.window & other.window
        mine, theirs = self.pixels[self.window.slices(both)], other.pixels[other.window.slices(both)]
        return int(np.count_nonzero(mine & theirs))


def border_iou(first: Border, second: Border) -> float:
    """IoU of two borders; 0 if both are empty."""
    shared = first.shared_with(second)
    union = first.area + second.area - shared
    return shared / union if union else 0.0


def limited_by_borders(
    mask_ious: Floats, masks: Sequence[CompressedRle], truths: Sequence[CompressedRle], crowds: Bools, wanted: Bools
) -> Floats:
    """What boundary AP compares: the lesser of mask IoU and boundary IoU, (D, G); 0 for pairs not `wanted`.

    With a crowd, the share of the mask's border that lies on the crowd's stands for the IoU, as of whole masks.
    """
    limited = np.zeros_like(mask_ious)
    detections, places = np.nonzero(wanted)
    mask_borders = {index: Border.of_rle(masks[index]) for index in set(detections.tolist())}
    truth_borders = {index: Border.of_rle(truths[index]) for index in set(places.tolist())}
    for detection, place in zip(detections.tolist(), places.tolist(), strict=True):
        mask, truth = mask_borders[detection], truth_borders[place]
        iou = mask.shared_with(truth) / mask.area if crowds[place] and mask.area else border_iou(mask, truth)
        limited[detection, place] = min(mask_ious[detection, place], iou)
    return limited
