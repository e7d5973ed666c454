"""Similarity maps: how alike SAM's decoder finds an anchor and every position of the image."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.sam import frame
from pipeline.sam.engine import ImageEmbeddings, SamEngine
from pipeline.structure.sampling import grid_positions, quantise, sample_features

_HALF_PIXEL: Final = np.float32(0.5)


def similarity_maps(
    engine: SamEngine, embeddings: ImageEmbeddings, image_index: int, anchors_xy: NDArray[np.float32], side: int
) -> NDArray[np.uint8]:
    """Quantised maps (A, side, side) of an image: each anchor (A, 2) alone prompts the decoder.

    A map holds the cosine similarity of the decoder's feature at the anchor and at the positions of
    `grid_positions`. SAM's padding is no part of it.
    """
    height, width = embeddings.image_hw[image_index]
    resized_height, resized_width = frame.resized_hw((height, width), engine.input_side)
    # Pixels of the image to shares of SAM's square input, where the image fills the upper left part.
    to_input = torch.tensor([resized_width / width, resized_height / height], device=engine.device) / engine.input_side
    own_xy = torch.from_numpy(anchors_xy).to(engine.device) * to_input
    positions_xy = grid_positions(side, torch.tensor([width, height], device=engine.device)) * to_input
    quantised = []
    first = 0
    # SAM's points are indices of pixels: a pixel's centre has whole numbers.
    for features in engine.decoder_features(embeddings, image_index, anchors_xy - _HALF_PIXEL):
        own = own_xy[first : first + len(features)]
        first += len(features)
        places = torch.cat([own.unsqueeze(1), positions_xy.expand(len(own), -1, -1)], dim=1)
        sampled = sample_features(features, places)
        similarity = (sampled[:, 1:] @ sampled[:, 0].unsqueeze(-1)).squeeze(-1)
        quantised.append(quantise(similarity))
    return np.asarray(torch.cat(quantised).reshape(-1, side, side).cpu().numpy())
