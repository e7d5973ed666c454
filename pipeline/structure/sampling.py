"""Sampling feature maps, the same way for SAM's decoder and for a detector; similarities as bytes and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.structure.target_columns import LEVELS


def grid_positions(side: int, image_wh: Tensor) -> Tensor:
    """Return the positions that maps are about: the centres of side x side equal cells over each image or tile.

    image_wh: ... x 2. Returns ... x side² x 2 as x, y in pixels of the image or tile, rows first.
    """
    centres = (torch.arange(side, device=image_wh.device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1) * image_wh.unsqueeze(-2)


def sample_features(features: Tensor, positions_xy: Tensor) -> Tensor:
    """Return features of unit length at any positions, bilinear between those of the feature map, clamped at its edge.

    features: B x C x h x w. positions_xy: B x N x 2, 0 to 1 from edge to edge of the map. Returns B x N x C float32.
    """
    sampled = F.grid_sample(
        features.float(), positions_xy.float().unsqueeze(2) * 2 - 1, padding_mode="border", align_corners=False
    )
    return F.normalize(sampled.squeeze(3).transpose(1, 2), dim=-1)


def similarities(features: Tensor, own_xy: Tensor, positions_xy: Tensor) -> Tensor:
    """Return the cosine similarity P x N of each map's feature at one point with its features at N positions.

    features: P x C x h x w float32. own_xy: P x 2, positions_xy: N x 2, 0 to 1 from edge to edge of the map. As
    `sample_features` interpolates, but without the P x N x C features: a product with an interpolated feature is
    the interpolated product, and the length of one follows from the products of the four features around it.
    """
    own = sample_features(features, own_xy.unsqueeze(1))
    height, width = features.shape[2:]
    tokens = features.permute(0, 2, 3, 1)
    right = torch.cat([tokens[:, :, 1:], tokens[:, :, -1:]], dim=2)
    below, below_right = (torch.cat([each[:, 1:], each[:, -1:]], dim=1) for each in (tokens, right))

    def products(first: Tensor, second: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vecdot(first, second).flatten(1)
        return found

    squares, across, down = (products(tokens, each) for each in (tokens, right, below))
    diagonal, other_diagonal = products(tokens, below_right), products(right, below)
    dots = torch.bmm(own, features.flatten(2)).squeeze(1)
    # Positions as indices of features, those beyond the outermost ones moved to them.
    sides = positions_xy.new_tensor([width, height])
    x, y = (positions_xy * sides - 0.5).clamp(min=0).minimum(sides - 1).unbind(-1)
    (left, top), (dx, dy) = (x.long(), y.long()), (x.frac(), y.frac())
    step_x, step_y = (left < width - 1).long(), (top < height - 1).long() * width
    at = top * width + left
    corners = (at, at + step_x, at + step_y, at + step_x + step_y)
    w0, w1, w2, w3 = (1 - dx) * (1 - dy), dx * (1 - dy), (1 - dx) * dy, dx * dy
    dot = sum(weight * dots[:, corner] for weight, corner in zip((w0, w1, w2, w3), corners, strict=True))
    square = sum(weight**2 * squares[:, corner] for weight, corner in zip((w0, w1, w2, w3), corners, strict=True))
    crossed = (
        w0 * w1 * across[:, corners[0]]
        + w2 * w3 * across[:, corners[2]]
        + w0 * w2 * down[:, corners[0]]
        + w1 * w3 * down[:, corners[1]]
        + w0 * w3 * diagonal[:, corners[0]]
        + w1 * w2 * other_diagonal[:, corners[0]]
    )
    return torch.as_tensor(dot / (square + 2 * crossed).clamp(min=1e-24).sqrt())


def quantise(similarity: Tensor) -> Tensor:
    """Return similarities, -1 to 1, as bytes, 0 to 255."""
    return ((similarity.clamp(-1, 1) + 1) * (LEVELS / 2)).round().to(torch.uint8)


def dequantise(maps: Tensor) -> Tensor:
    """Return stored bytes, 0 to 255, as similarities, -1 to 1 float32; rounding has changed them by 1/255 at most."""
    return maps.float() * (2 / LEVELS) - 1
