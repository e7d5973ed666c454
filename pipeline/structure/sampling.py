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


def quantise(similarity: Tensor) -> Tensor:
    """Return similarities, -1 to 1, as bytes, 0 to 255."""
    return ((similarity.clamp(-1, 1) + 1) * (LEVELS / 2)).round().to(torch.uint8)


def dequantise(maps: Tensor) -> Tensor:
    """Return stored bytes, 0 to 255, as similarities, -1 to 1 float32; rounding has changed them by 1/255 at most."""
    return maps.float() * (2 / LEVELS) - 1
