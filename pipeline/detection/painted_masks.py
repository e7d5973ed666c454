"""A predicted instance, whose mask is painted at the size of the image when it is asked for.

A detector's masks are small: cells inside a box, or logits at a quarter of the input. A hundred of them at full
size are gigabytes as probabilities, so whoever needs them paints one at a time.
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
    """A mask at the size of the image. probability: float32 (height, width), 0 to 1. mask: bool, likewise."""

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]


class SoftMaskSource(Protocol):
    """What can paint the mask of an instance."""

    @property
    def threshold(self) -> float:
        """Return the probability that parts the mask from the rest."""
        ...

    def paint(self) -> PaintedMask:
        """Paint the mask at the size of the image; nothing of it is kept."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """One instance. label: its index among the model's classes. box_xyxy: the detector's, in pixels of the image."""

    label: int
    score: float
    box_xyxy: BoxXyxy
    source: SoftMaskSource


@dataclass(frozen=True, eq=False, slots=True)
class RegionMask:
    """Mask R-CNN's mask: probabilities of cells (rows, columns) that divide a box, box_xyxy in pixels of the image."""

    cells: Tensor
    box_xyxy: Tensor
    size_hw: tuple[int, int]
    threshold: float

    def paint(self) -> PaintedMask:
        """Paint as MMDetection pastes on a CPU; nothing lies outside the box."""
        # skip_empty on every device: elsewhere MMDetection paints whole images, to the same mask.
        values, region = _do_paste_mask(self.cells[None, None], self.box_xyxy[None], *self.size_hw, skip_empty=True)
        probability = torch.zeros(self.size_hw, device=self.cells.device)
        mask = torch.zeros(self.size_hw, dtype=torch.bool, device=self.cells.device)
        probability[region] = values[0]
        mask[region] = values[0] >= self.threshold
        return PaintedMask(probability.cpu().numpy(), mask.cpu().numpy())


@dataclass(frozen=True, eq=False, slots=True)
class QueryMask:
    """Mask2Former's mask: logits (rows, columns) over the padded input.

    input_hw: the input with its padding. resized_hw: without. size_hw: the image.
    """

    logits_lowres: Tensor
    input_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    size_hw: tuple[int, int]
    threshold: float = 0.5

    def logits(self) -> Tensor:
        """Return logits at the size of the image, (height, width): twice resized, as MMDetection does it."""
        rows, columns = self.resized_hw
        padded = _resized(self.logits_lowres[None, None], self.input_hw)
        return _resized(padded[..., :rows, :columns], self.size_hw)[0, 0]

    def paint(self) -> PaintedMask:
        """Paint a mask where the logits are positive."""
        logits = self.logits()
        return PaintedMask(logits.sigmoid().cpu().numpy(), (logits > 0).cpu().numpy())


@dataclass(frozen=True, eq=False, slots=True)
class MirroredMask:
    """Another mask, left and right exchanged."""

    mirrored: SoftMaskSource

    @property
    def threshold(self) -> float:
        """Return that of the other."""
        return self.mirrored.threshold

    def paint(self) -> PaintedMask:
        """Paint the other's, exchanged."""
        painted = self.mirrored.paint()
        return PaintedMask(painted.probability[:, ::-1], painted.mask[:, ::-1])


@dataclass(frozen=True, eq=False, slots=True)
class MeanMask:
    """What two masks of the same object agree on: the mean of their probabilities."""

    first: SoftMaskSource
    second: SoftMaskSource

    @property
    def threshold(self) -> float:
        """Return that of the first."""
        return self.first.threshold

    def paint(self) -> PaintedMask:
        """Paint the mean, and a mask where it reaches the threshold."""
        probability = (self.first.paint().probability + self.second.paint().probability) * np.float32(0.5)
        return PaintedMask(probability, probability >= self.threshold)


def _resized(values: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(values, size=size_hw, mode="bilinear", align_corners=False)
