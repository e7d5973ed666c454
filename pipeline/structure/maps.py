"""Similarity maps: how similar SAM's decoder finds an anchor and every position of a tile, or what the labels say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.masks.run_lengths import CompressedRle, decode_window, tight_window
from pipeline.masks.windows import BoolMask, Window, nonzero_window
from pipeline.sam.interface import Engine, ImageEmbeddings
from pipeline.sam.prompt import Prompt
from pipeline.structure.anchors import Anchors
from pipeline.structure.sampling import grid_positions, quantise, sample_features, similarities

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
    engine: Engine,
    embeddings: ImageEmbeddings,
    image_index: int,
    anchors_xy: NDArray[np.float32],
    prompts: Sequence[Prompt],
    side: int,
) -> NDArray[np.uint8]:
    """Return quantised maps (A, side, side) of an image: the prompt of each anchor (A, 2) alone goes to the decoder.

    A map holds the cosine similarity of the decoder's image token at the anchor and at the positions of
    `grid_positions`, which cover the image without SAM's padding.
    """
    own_xy, positions_xy = _places(engine, embeddings.image_hw[image_index], anchors_xy, side)
    maps = np.empty((len(anchors_xy), side, side), dtype=np.uint8)
    for indices, features in engine.decoder_tokens(embeddings, image_index, prompts):
        similarity = similarities(features, own_xy[indices], positions_xy)
        maps[indices] = quantise(similarity).reshape(-1, side, side).cpu().numpy()
    return maps


def embedding_maps(
    engine: Engine, embeddings: ImageEmbeddings, image_index: int, anchors_xy: NDArray[np.float32], side: int
) -> NDArray[np.uint8]:
    """Return as `similarity_maps` the maps of the image embedding itself, without a prompt: to compare with."""
    places = _places(engine, embeddings.image_hw[image_index], anchors_xy, side)
    sampled = sample_features(embeddings.features[image_index : image_index + 1], torch.cat(places).unsqueeze(0))[0]
    similarity = sampled[: len(anchors_xy)] @ sampled[len(anchors_xy) :].T
    return np.asarray(quantise(similarity).reshape(-1, side, side).cpu().numpy())


def _places(
    engine: Engine, image_hw: tuple[int, int], anchors_xy: NDArray[np.float32], side: int
) -> tuple[Tensor, Tensor]:
    """Return anchors (A, 2) and the positions of maps (side², 2) as shares of SAM's square input.

    The image fills the upper left part of the input, or all of it.
    """
    height, width = image_hw
    resized_height, resized_width = engine.frame.resized_hw(image_hw)
    scale_xy = torch.tensor([resized_width / width, resized_height / height], device=engine.device)
    to_input = scale_xy / engine.frame.input_side
    positions_xy = grid_positions(side, torch.tensor([width, height], device=engine.device))
    return torch.from_numpy(anchors_xy).to(engine.device) * to_input, positions_xy * to_input


def boxes_in_tile(instances: Sequence[CompressedRle], tile: Window) -> NDArray[np.float32]:
    """Return the tight boxes (N, 4) of what a tile shows of instances, as x0, y0, x1, y1 in its pixels.

    Four zeros where it shows nothing of an instance.
    """
    boxes = np.zeros((len(instances), 4), dtype=np.float32)
    for index, rle in enumerate(instances):
        whole = tight_window(rle)
        seen = whole.moved(-tile.x0, -tile.y0) if tile.contains(whole) else nonzero_window(_seen_in(rle, tile))
        if not seen.is_empty:
            boxes[index] = astuple(seen)
    return boxes


def truth_maps(tile: Window, anchors: Anchors, instances: Sequence[CompressedRle], side: int) -> NDArray[np.uint8]:
    """Return quantised maps (A, side, side) over a tile from labels: 1 where the anchor's own instance is, else 0.

    The background counts as one instance. A cell holds the share of its area that belongs to the instance.
    """
    rows, columns = _cell_weights(tile.height, side), _cell_weights(tile.width, side)
    background = np.ones((tile.height, tile.width), dtype=np.bool_)
    shares = np.empty((len(instances) + 1, side, side), dtype=np.float32)
    for index, rle in enumerate(instances):
        mask = _seen_in(rle, tile)
        background &= ~mask
        shares[index] = rows @ mask @ columns.T
    shares[-1] = rows @ background @ columns.T
    return np.asarray(quantise(torch.from_numpy(shares)).numpy()[anchors.instance])


def _seen_in(rle: CompressedRle, tile: Window) -> BoolMask:
    """Return what a tile shows of an instance: bool (height, width) of the tile."""
    if (tight_window(rle) & tile).is_empty:  # most instances are elsewhere: do not decode them
        return np.zeros((tile.height, tile.width), dtype=np.bool_)
    return decode_window(rle, tile)


def _cell_weights(length: int, side: int) -> NDArray[np.float32]:
    """Return along one axis the share of each of `side` equal cells that each pixel fills: (side, length)."""
    edges = np.arange(side + 1) * (length / side)
    pixels = np.arange(length)
    overlap_px = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(overlap_px.clip(0) * (side / length), dtype=np.float32)
