"""A predicted instance, whose mask is painted at the size of the image when it is needed.

A detector's masks are small: cells inside a box, or logits at a quarter of the input. A hundred of them as
probabilities at full size are gigabytes, so masks are painted one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.masks.windows import BoxXyxy


@dataclass(frozen=True, eq=False, slots=True)
class PaintedMask:
    """A mask at the size of the image.

    probability: float32 (height, width), 0 to 1. complement: 1 - probability, with all its digits where the probability
    is nearly 1. mask: bool (height, width). threshold: the least probability in it. uncertain: bool (height, width),
    the pixels about which the two masks that it is the mean of disagree; None for a mask that is no mean.
    """

    probability: NDArray[np.float32]
    complement: NDArray[np.float32]
    mask: NDArray[np.bool_]
    threshold: float
    uncertain: NDArray[np.bool_] | None = None


class SoftMaskSource(Protocol):
    """Paints the mask of an instance."""

    def paint(self) -> PaintedMask:
        """Paint the mask at the size of the image, anew at each call."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """One instance.

    label: its index among the model's classes.
    class_score: the probability of its class.
    mask_score: the mean probability inside its mask, of pixels or of the cells of a box; 0 for an empty mask.
    ranked_by_mask: whether the detector ranks instances by the product of both scores, not by the class score alone.
    box_xyxy: the detector's, in pixels of the image.
    """

    label: int
    class_score: float
    mask_score: float
    ranked_by_mask: bool
    box_xyxy: BoxXyxy
    source: SoftMaskSource

    @property
    def ranking_score(self) -> float:
        """Return the score that the detector ranks the instance by, rounded to 32 bits as its own are."""
        factor = np.float32(self.mask_score if self.ranked_by_mask else 1.0)
        return float(np.float32(self.class_score) * factor)


@dataclass(frozen=True, eq=False, slots=True)
class RegionMask:
    """Mask R-CNN's mask: probabilities of cells (rows, columns) that divide a box, box_xyxy in pixels of the image."""

    cells: Tensor
    box_xyxy: Tensor
    size_hw: tuple[int, int]
    threshold: float

    def paint(self) -> PaintedMask:
        """Paint as MMDetection pastes on a CPU; outside the box all is 0."""
        # skip_empty on every device: elsewhere MMDetection paints whole images, with the same result.
        values, region = _do_paste_mask(self.cells[None, None], self.box_xyxy[None], *self.size_hw, skip_empty=True)
        probability = torch.zeros(self.size_hw, device=self.cells.device)
        mask = torch.zeros(self.size_hw, dtype=torch.bool, device=self.cells.device)
        probability[region] = values[0]
        mask[region] = values[0] >= self.threshold
        return PaintedMask(
            probability.cpu().numpy(), (1 - probability).cpu().numpy(), mask.cpu().numpy(), self.threshold
        )


@dataclass(frozen=True, eq=False, slots=True)
class QueryMask:
    """Mask2Former's mask: logits (rows, columns) over the padded input.

    input_hw: the input with its padding. resized_hw: without padding. size_hw: the image.
    """

    logits_lowres: Tensor
    input_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    size_hw: tuple[int, int]

    def logits(self) -> Tensor:
        """Return logits at the size of the image, (height, width), resized twice as in MMDetection."""
        rows, columns = self.resized_hw
        padded = _resized(self.logits_lowres[None, None], self.input_hw)
        return _resized(padded[..., :rows, :columns], self.size_hw)[0, 0]

    def paint(self) -> PaintedMask:
        """Paint a mask where the logits are positive."""
        logits = self.logits()
        probability, complement, mask = (
            each.cpu().numpy() for each in (logits.sigmoid(), (-logits).sigmoid(), logits > 0)
        )
        return PaintedMask(probability, complement, mask, 0.5)


@dataclass(frozen=True, eq=False, slots=True)
class MirroredMask:
    """Another mask with left and right exchanged."""

    mirrored: SoftMaskSource

    def paint(self) -> PaintedMask:
        """Paint the other mask, mirrored."""
        painted = self.mirrored.paint()
        probability, complement = (each[:, ::-1] for each in (painted.probability, painted.complement))
        return PaintedMask(probability, complement, painted.mask[:, ::-1], painted.threshold)


@dataclass(frozen=True, eq=False, slots=True)
class MeanMask:
    """The mean of two masks of the same object."""

    first: SoftMaskSource
    second: SoftMaskSource

    def paint(self) -> PaintedMask:
        """Paint the mean of the probabilities, and a mask where it reaches the first one's threshold."""
        first, second = self.first.paint(), self.second.paint()
        probability = (first.probability + second.probability) * np.float32(0.5)
        complement = (first.complement + second.complement) * np.float32(0.5)
        return PaintedMask(
            probability, complement, probability >= first.threshold, first.threshold, first.mask ^ second.mask
        )


def _resized(values: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(values, size=size_hw, mode="bilinear", align_corners=False)
