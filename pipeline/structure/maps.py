"""Similarity maps: how alike SAM's decoder finds an anchor and every position of the image; or what the labels say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from pipeline.masks.run_lengths import CompressedRle
from pipeline.masks.windows import Window
from pipeline.sam import frame
from pipeline.sam.engine import ImageEmbeddings, SamEngine
from pipeline.sam.prompt import Prompt
from pipeline.structure.anchors import Anchors
from pipeline.structure.sampling import grid_positions, quantise, sample_features

_HALF_PIXEL: Final = np.float32(0.5)


def anchor_prompts(anchors: Anchors, boxes_xyxy: NDArray[np.float32] | None) -> list[Prompt]:
    """Make a prompt of each anchor: a positive point, and the box of its instance where boxes (N, 4) are given."""
    label = np.ones(1, dtype=np.int64)
    # SAM's points are indices of pixels: a pixel's centre has whole numbers.
    return [
        Prompt(xy[None] - _HALF_PIXEL, label, None if boxes_xyxy is None or index < 0 else boxes_xyxy[index])
        for xy, index in zip(anchors.xy, anchors.instance, strict=True)
    ]


def similarity_maps(
    engine: SamEngine,
    embeddings: ImageEmbeddings,
    image_index: int,
    anchors_xy: NDArray[np.float32],
    prompts: Sequence[Prompt],
    side: int,
) -> NDArray[np.uint8]:
    """Return quantised maps (A, side, side) of an image: the prompt of each anchor (A, 2) alone goes to the decoder.

    A map holds the cosine similarity of the decoder's image token at the anchor and at the positions of
    `grid_positions`. SAM's padding is no part of it.
    """
    height, width = embeddings.image_hw[image_index]
    resized_height, resized_width = frame.resized_hw((height, width), engine.input_side)
    # Pixels of the image to shares of SAM's square input, where the image fills the upper left part.
    to_input = torch.tensor([resized_width / width, resized_height / height], device=engine.device) / engine.input_side
    own_xy = torch.from_numpy(anchors_xy).to(engine.device) * to_input
    positions_xy = grid_positions(side, torch.tensor([width, height], device=engine.device)) * to_input
    maps = np.empty((len(anchors_xy), side, side), dtype=np.uint8)
    for indices, features in engine.decoder_tokens(embeddings, image_index, prompts):
        own = own_xy[indices]
        places = torch.cat([own.unsqueeze(1), positions_xy.expand(len(own), -1, -1)], dim=1)
        sampled = sample_features(features, places)
        similarity = (sampled[:, 1:] @ sampled[:, 0].unsqueeze(-1)).squeeze(-1)
        maps[indices] = quantise(similarity).reshape(-1, side, side).cpu().numpy()
    return maps


def boxes_in_tile(instances: Sequence[CompressedRle], tile: Window) -> NDArray[np.float32]:
    """Return the boxes (N, 4) of instances, cut to a tile, as x0, y0, x1, y1 in its pixels."""
    boxes = np.array([coco_mask.toBbox(rle) for rle in instances], dtype=np.float32).reshape(-1, 4)
    corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    low, high = np.array([tile.x0, tile.y0], np.float32), np.array([tile.x1, tile.y1], np.float32)
    return np.asarray((np.clip(corners, low, high) - low).reshape(-1, 4))


def truth_maps(tile: Window, anchors: Anchors, instances: Sequence[CompressedRle], side: int) -> NDArray[np.uint8]:
    """Return quantised maps (A, side, side) over a tile from labels: 1 where the anchor's own instance is, else 0.

    The background counts as one instance. A cell holds the share of it that belongs to the instance.
    """
    background = np.ones((tile.height, tile.width), dtype=np.float32)
    shares = np.empty((len(instances) + 1, side, side), dtype=np.float32)
    for index, rle in enumerate(instances):
        mask = coco_mask.decode(rle)[tile.y0 : tile.y1, tile.x0 : tile.x1].astype(np.float32)
        background[mask > 0] = 0
        shares[index] = _cell_means(mask, side)
    shares[-1] = _cell_means(background, side)
    return np.asarray(quantise(torch.from_numpy(shares)).numpy()[anchors.instance])


def _cell_means(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the means of side x side equal cells over an array; of the pixels that a cell touches."""
    return np.asarray(F.adaptive_avg_pool2d(torch.from_numpy(values)[None, None], side)[0, 0].numpy())
