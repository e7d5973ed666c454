"""The structural loss: it teaches a detector's features to find similar what SAM's decoder finds similar.

Targets are in pixels of the original image, features in pixels of the network's input. A homography for each image
leads from one to the other, so that every resize, crop and flip is followed exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.structure.sampling import dequantise, grid_positions, sample_features

EVERY = 2
"""A step uses every second row and column of the positions."""


@dataclass(frozen=True)
class Geometry:
    """How the images of a batch lie in the network's input; all lengths in pixels.

    homography: B x 3 x 3, from pixels of the original to pixels of the input; pixel i reaches from i to i + 1.
    visible_wh: B x 2, what each image fills of the input, from its upper left corner on; the rest is padding.
    input_wh: the input that the features cover, padding included.
    """

    homography: Tensor
    visible_wh: Tensor
    input_wh: tuple[int, int]

    def of_image(self, index: int) -> Geometry:
        """Return the geometry of one image of the batch, as a batch of one."""
        only = slice(index, index + 1)
        return Geometry(self.homography[only], self.visible_wh[only], self.input_wh)


@dataclass(frozen=True)
class ImageStructure:
    """The structural targets of one image of a batch.

    anchors_xy: A x 2, pixels of the original; NaN for anchors that do not count.
    windows_xyxy: A x 4, what each map covers, edges in pixels of the original.
    maps: A x s x s uint8, as stored.
    """

    anchors_xy: Tensor
    windows_xyxy: Tensor
    maps: Tensor


class StructuralLoss(nn.Module):
    """Smooth-L1 between stored maps and those of a detector's features, times `weight`.

    It is the mean over all pairs of an anchor and a position that the input shows, whatever their image. Neighbouring
    positions say nearly the same. So each call uses every second row and column of them, for each image from a start
    drawn at random: on average that is the loss over all, for about a third of its time.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, features: Tensor, targets: Sequence[ImageStructure], geometry: Geometry) -> Tensor:
        """Return the loss of features B x C x h x w; zero, with a gradient of zero, where nothing is seen."""
        features = features.float()
        loss, pairs = features.sum() * 0, features.new_zeros(())
        for index, image in enumerate(targets):
            row, column = torch.randint(min(EVERY, image.maps.shape[-1]), (2,)).tolist()
            of_image, seen = _image_loss(
                features[index : index + 1], image, geometry.of_image(index), (row, column, EVERY)
            )
            loss, pairs = loss + of_image, pairs + seen
        return self.weight * loss / pairs.clamp(min=1)


def _image_loss(
    features: Tensor, image: ImageStructure, geometry: Geometry, grid: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return the sum of losses over all pairs of an anchor and a position that are seen, and the number of pairs.

    features: 1 x C x h x w. grid: the first row and column of positions, and the step to the next ones.
    """
    side = image.maps.shape[-1]
    row, column, every = grid
    chosen = torch.arange(side**2, device=features.device).view(side, side)[row::every, column::every].flatten()
    anchors_xy, anchors_seen = _mapped(image.anchors_xy[None], geometry)
    own = sample_features(features, anchors_xy)[0]
    # Anchors of one window share its positions.
    windows, window_of = torch.unique(image.windows_xyxy, dim=0, return_inverse=True)
    loss, pairs = features.new_zeros(()), features.new_zeros(())
    for number, window_xyxy in enumerate(windows):
        members = torch.nonzero((window_of == number) & anchors_seen[0]).squeeze(1)
        if not len(members):
            continue
        original_xy = grid_positions(side, (window_xyxy[2:] - window_xyxy[:2]).float()[None]) + window_xyxy[:2]
        positions_xy, seen = _mapped(original_xy[:, chosen], geometry)
        found = own[members] @ sample_features(features, positions_xy)[0].T
        wanted = dequantise(image.maps[members].flatten(1)[:, chosen])
        loss = loss + (F.smooth_l1_loss(found, wanted, reduction="none") * seen).sum()
        pairs = pairs + len(members) * seen.sum()
    return loss, pairs


def _mapped(points_xy: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return points B x N x 2 of the originals as shares of the input, and which of them are seen there."""
    homogeneous = F.pad(points_xy.float(), (0, 1), value=1.0) @ geometry.homography.float().transpose(1, 2)
    scale = homogeneous[..., 2:]
    mapped = homogeneous[..., :2] / scale
    seen = ((mapped >= 0) & (mapped <= geometry.visible_wh.unsqueeze(1)) & (scale > 0)).all(dim=-1)
    shares = mapped / mapped.new_tensor(geometry.input_wh)
    return torch.where(seen.unsqueeze(-1), shares, 0.5), seen
