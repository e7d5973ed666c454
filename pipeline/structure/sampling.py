"""Sampling feature maps, the same way for SAM's decoder and for a detector; similarities as bytes and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.structure.target_columns import LEVELS


def grid_positions(side: int, image_wh: Tensor) -> Tensor:
    """Where the maps of images say something: the centres of side x side equal cells over each image.

    image_wh: ... x 2. Returns ... x side² x 2 as x, y in pixels of the image, rows first.
    """
    centres = (torch.arange(side, device=image_wh.device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1) * image_wh.unsqueeze(-2)


def sample_features(features: Tensor, places_xy: Tensor) -> Tensor:
    """Features of unit length at places between those of a map, bilinear; beyond its rim the rim's.

    features: B x C x h x w. places_xy: B x N x 2, 0 to 1 from edge to edge of the map. Returns B x N x C float32.
    """
    sampled = F.grid_sample(
        features.float(), places_xy.float().unsqueeze(2) * 2 - 1, padding_mode="border", align_corners=False
    )
    return F.normalize(sampled.squeeze(3).transpose(1, 2), dim=-1)


def quantise(similarity: Tensor) -> Tensor:
    """-1 to 1 as 0 to 255."""
    return ((similarity.clamp(-1, 1) + 1) * (LEVELS / 2)).round().to(torch.uint8)


def dequantise(maps: Tensor) -> Tensor:
    """0 to 255, as stored, as -1 to 1 float32; at most 1/255 beside what SAM said."""
    return maps.float() * (2 / LEVELS) - 1
