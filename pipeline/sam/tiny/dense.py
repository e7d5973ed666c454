"""Train a dense task along with the prompts: every pixel predicts the object that it belongs to.

A few prompts in an image teach the encoder little; this teaches it from all objects at once, at almost no cost. The
head is not part of the shipped model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.sam.tiny.model import EMBEDDING_CHANNELS

CHANNELS = 6
UPSCALE = 4
"""From the embedding's stride 8 to the stride 2 of the low-resolution masks."""
DISTANCE_UNIT_PX = 32.0


@dataclass(frozen=True)
class DenseTargets:
    """Targets at stride 2. inside, border: (B, h, w) float 0 or 1. distances: (B, 4, h, w) to the object's box."""

    inside: Tensor
    border: Tensor
    distances: Tensor


def _boxes_xyxy(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the box of each label of one image, (N + 1, 4), row 0 for the background."""
    boxes = np.zeros((int(labels.max()) + 1, 4), dtype=np.float32)
    rows, columns = np.nonzero(labels)
    owner = labels[rows, columns]
    boxes[:, :2] = labels.shape[0]
    np.minimum.at(boxes[:, 0], owner, columns)
    np.minimum.at(boxes[:, 1], owner, rows)
    np.maximum.at(boxes[:, 2], owner, columns + 1)
    np.maximum.at(boxes[:, 3], owner, rows + 1)
    return boxes


def dense_targets(labels: NDArray[np.int32]) -> DenseTargets:
    """Make targets from label maps (B, S, S): inside an object, at its border, and the distances to its box."""
    coarse = labels[:, ::2, ::2]
    differs = np.zeros(labels.shape, dtype=np.float32)
    differs[:, :, 1:] = labels[:, :, 1:] != labels[:, :, :-1]
    differs[:, 1:] = np.maximum(differs[:, 1:], labels[:, 1:] != labels[:, :-1])
    border = F.max_pool2d(torch.from_numpy(differs), 2)
    position = 2 * np.arange(coarse.shape[1], dtype=np.float32) + 0.5
    box_xyxy = np.stack([_boxes_xyxy(image)[small] for image, small in zip(labels, coarse, strict=True)])
    x, y = position[None, None, :], position[None, :, None]
    distances = np.stack(
        [x - box_xyxy[..., 0], y - box_xyxy[..., 1], box_xyxy[..., 2] - x, box_xyxy[..., 3] - y], axis=1
    )
    return DenseTargets(
        inside=torch.from_numpy((coarse > 0).astype(np.float32)),
        border=border,
        distances=torch.from_numpy(distances / np.float32(DISTANCE_UNIT_PX)),
    )


class DenseHead(nn.Module):
    """Head that predicts six values for a pixel at stride 2 from the embedding: inside, border, four distances."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(EMBEDDING_CHANNELS, CHANNELS * UPSCALE**2, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return (B, 6, S/2, S/2) from embeddings (B, C, S/8, S/8)."""
        return F.pixel_shuffle(self.project(embeddings), UPSCALE)


def dense_loss(answers: Tensor, targets: DenseTargets) -> Tensor:
    """Return the cross-entropy of inside and border, and the mean error of the distances inside objects."""
    inside = F.binary_cross_entropy_with_logits(answers[:, 0], targets.inside)
    border = F.binary_cross_entropy_with_logits(answers[:, 1], targets.border)
    error = (answers[:, 2:] - targets.distances).abs().mean(1)
    return inside + border + (error * targets.inside).sum() / targets.inside.sum().clamp(min=1)
