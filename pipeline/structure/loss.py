"""The structural loss: a detector's features shall find alike what SAM's decoder finds alike.

Targets lie in pixels of the original image, features in those of the network's input. A homography for each
image leads from the one to the other, so that every resize, crop and flip is followed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.structure.sampling import dequantise, grid_positions, sample_features

EVERY = 2
"""A step looks at every so many rows and columns of the positions."""


@dataclass(frozen=True)
class Geometry:
    """How the images of a batch lie in the network's input; all lengths in pixels.

    image_wh: B x 2, the original images. homography: B x 3 x 3, from pixels of the original to pixels of the
    input; pixel i reaches from i to i + 1. visible_wh: B x 2, what each image fills of the input, from its
    upper left corner on; the rest is padding. input_wh: the input that the features cover, padding included.
    """

    image_wh: Tensor
    homography: Tensor
    visible_wh: Tensor
    input_wh: tuple[int, int]


@dataclass(frozen=True)
class SampleGrid:
    """Where in a feature map the targets say something.

    anchors_xy: B x A x 2 and positions_xy: B x N x 2, 0 to 1 from edge to edge of the features.
    anchors_seen: B x A and positions_seen: B x N, bool: which are in the visible part of the input.
    """

    anchors_xy: Tensor
    positions_xy: Tensor
    anchors_seen: Tensor
    positions_seen: Tensor

    def at(self, chosen: Tensor) -> SampleGrid:
        """Only these positions, by their places."""
        return replace(self, positions_xy=self.positions_xy[:, chosen], positions_seen=self.positions_seen[:, chosen])


def sample_grid(anchors_xy: Tensor, side: int, geometry: Geometry) -> SampleGrid:
    """The anchors B x A x 2, in pixels of the originals, and the positions of their maps, in the features.

    NaN anchors, those of images that failed, count as not seen.
    """
    positions_xy = grid_positions(side, geometry.image_wh.float())
    anchors, anchors_seen = _mapped(anchors_xy, geometry)
    positions, positions_seen = _mapped(positions_xy, geometry)
    return SampleGrid(anchors, positions, anchors_seen, positions_seen)


def structural_loss(features: Tensor, targets: Tensor, grid: SampleGrid) -> Tensor:
    """Smooth-L1 between target maps and those of the features, the mean over all pairs that are seen.

    features: B x C x h x w. targets: B x A x N, -1 to 1. Zero, with a gradient of zero, where nothing is seen.
    """
    own = sample_features(features, grid.anchors_xy)
    others = sample_features(features, grid.positions_xy)
    found = own @ others.transpose(1, 2)
    seen = grid.anchors_seen.unsqueeze(2) & grid.positions_seen.unsqueeze(1)
    losses = F.smooth_l1_loss(found, targets, reduction="none")
    return (losses * seen).sum() / seen.sum().clamp(min=1)


class StructuralLoss(nn.Module):
    """`structural_loss` on targets as they are stored, weighted.

    Neighbouring positions say nearly the same. So each call looks at every second row and column of them, from a
    start drawn at random: on average that is the loss over all, for about a third of its time.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, features: Tensor, anchors_xy: Tensor, maps: Tensor, geometry: Geometry) -> Tensor:
        """features: B x C x h x w. anchors_xy: B x A x 2. maps: B x A x s x s uint8."""
        side = maps.shape[-1]
        row, column = torch.randint(min(EVERY, side), (2,)).tolist()
        chosen = torch.arange(side**2, device=maps.device).view(side, side)[row::EVERY, column::EVERY].flatten()
        grid = sample_grid(anchors_xy, side, geometry).at(chosen)
        return self.weight * structural_loss(features, dequantise(maps.flatten(2)[..., chosen]), grid)


def _mapped(points_xy: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Points B x N x 2 of the originals as shares of the input, and which of them are seen there."""
    homogeneous = F.pad(points_xy.float(), (0, 1), value=1.0) @ geometry.homography.float().transpose(1, 2)
    scale = homogeneous[..., 2:]
    mapped = homogeneous[..., :2] / scale
    seen = ((mapped >= 0) & (mapped <= geometry.visible_wh.unsqueeze(1)) & (scale > 0)).all(dim=-1)
    shares = mapped / mapped.new_tensor(geometry.input_wh)
    return torch.where(seen.unsqueeze(-1), shares, 0.5), seen
