"""Similarity maps against a naive computation on segment_anything's own decoder."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from torch.nn import functional as F

from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.structure.maps import similarity_maps
from pipeline.structure.sampling import dequantise, quantise

QUANTUM = 1 / 255


def bilinear(features: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """A feature of C x h x w at continuous x, y; the centre of the first is at 0.5, 0.5."""
    height, width = features.shape[1:]
    x, y = (min(max(value - 0.5, 0.0), side - 1.0) for value, side in ((x, width), (y, height)))
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = features[:, top, left] * (1 - (x - left)) + features[:, top, right] * (x - left)
    lower = features[:, bottom, left] * (1 - (x - left)) + features[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


@pytest.mark.slow
@pytest.mark.parametrize("size_hw", [(48, 64), (150, 100), (128, 128)])
def test_maps_are_the_cosines_of_the_decoders_own_features(size_hw):
    height, width = size_hw
    rng = np.random.default_rng(height)
    image = rng.integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    image = np.ascontiguousarray(np.pad(image, ((0, height % 4), (0, width % 4), (0, 0))))
    anchors_xy = (rng.integers(0, (width, height), (5, 2)) + 0.5).astype(np.float32)
    sam = build_sam("sam_tiny")
    predictor = SamPredictor(copy.deepcopy(sam))
    engine = SamEngine(sam, precision="fp32")
    side = 16
    found = similarity_maps(engine, engine.encode([image]), 0, anchors_xy, side)

    predictor.set_image(image)
    seen: list[torch.Tensor] = []
    predictor.model.mask_decoder.output_upscaling.register_forward_hook(lambda _module, _args, out: seen.append(out))
    resized_height, resized_width = predictor.input_size
    scale_xy = np.array([resized_width / width, resized_height / height]) * engine.lowres_side / engine.input_side
    grid_xy = (np.stack(np.meshgrid(range(side), range(side)), axis=-1) + 0.5) / side * (width, height)
    for anchor, map_ in zip(anchors_xy, found, strict=True):
        predictor.predict((anchor - 0.5)[None], np.ones(1))
        features = seen.pop()[0]
        own = bilinear(features, *(anchor * scale_xy))
        expected = torch.tensor(
            [[F.cosine_similarity(own, bilinear(features, *(xy * scale_xy)), dim=0) for xy in row] for row in grid_xy]
        )
        torch.testing.assert_close(dequantise(torch.from_numpy(map_)), expected, rtol=0, atol=QUANTUM)
        assert expected.std() > 0.02  # or anything would pass


def test_quantising_keeps_all_but_half_a_level():
    values = torch.linspace(-1, 1, 10_001)
    assert quantise(torch.tensor([-1.0, 1.0, 1.0000002])).tolist() == [0, 255, 255]
    assert (dequantise(quantise(values)) - values).abs().max() <= QUANTUM + 1e-6
