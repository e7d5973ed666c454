"""Similarity maps against naive computations: on segment_anything's own decoder, and on labels."""

from __future__ import annotations

import copy
from math import ceil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from torch.nn import functional as F

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.shards import Shard
from pipeline.files.images import read_image
from pipeline.masks.run_lengths import encode_mask
from pipeline.masks.windows import Window, whole_image
from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.sam.prompt import Prompt
from pipeline.sam.worker import SamChoice
from pipeline.structure.anchors import Anchors, sample_anchors
from pipeline.structure.distill_work import DistillWork
from pipeline.structure.maps import anchor_prompts, boxes_in_tile, similarity_maps, truth_maps
from pipeline.structure.sampling import dequantise, quantise, sample_features, similarities
from pipeline.structure.settings import DistillSettings
from tests.tiny_coco import tiny_coco
from tests.tiny_labels import random_mask

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


def blocks(height: int, width: int) -> NDArray[np.uint8]:
    """An image of random blocks of 4 x 4 pixels."""
    rng = np.random.default_rng(height)
    image = rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return np.ascontiguousarray(image[:height, :width])


def some_anchors(height: int, width: int, instances: list[int]) -> Anchors:
    """Random pixels, of these instances."""
    rng = np.random.default_rng(width)
    xy = (rng.integers(0, (width, height), (len(instances), 2)) + 0.5).astype(np.float32)
    return Anchors(xy, np.array(instances))


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The edges of a mask's box; four zeros where it has no pixel."""
    rows, columns = np.nonzero(mask)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
    return np.array(edges, dtype=np.float32)


# SAM's maps


@pytest.mark.slow
@pytest.mark.parametrize("size_hw", [(48, 64), (150, 100), (128, 128)])
@pytest.mark.parametrize("with_boxes", [False, True])
def test_maps_are_the_cosines_of_the_decoders_own_tokens(size_hw, with_boxes):
    height, width = size_hw
    image = blocks(height, width)
    anchors = some_anchors(height, width, [0, -1, 1, -1, 0])
    boxes_xyxy = np.array([[3, 5, 40, 30], [20, 10, width, height]], dtype=np.float32) if with_boxes else None
    sam = build_sam("sam_tiny")
    predictor = SamPredictor(copy.deepcopy(sam))
    engine = SamEngine(sam, precision="fp32")
    side = 16
    prompts = anchor_prompts(anchors, boxes_xyxy)
    found = similarity_maps(engine, engine.encode([image]), 0, anchors.xy, prompts, side)

    predictor.set_image(image)
    seen: list[torch.Tensor] = []
    predictor.model.mask_decoder.transformer.register_forward_hook(lambda _module, _args, out: seen.append(out[1]))
    token_side = predictor.model.prompt_encoder.image_embedding_size[0]
    resized_height, resized_width = predictor.input_size
    scale_xy = np.array([resized_width / width, resized_height / height]) * token_side / engine.frame.input_side
    grid_xy = (np.stack(np.meshgrid(range(side), range(side)), axis=-1) + 0.5) / side * (width, height)
    spreads = []
    for anchor, instance, map_ in zip(anchors.xy, anchors.instance, found, strict=True):
        box = None if boxes_xyxy is None or instance < 0 else boxes_xyxy[instance]
        predictor.predict((anchor - 0.5)[None], np.ones(1), box)
        features = seen.pop()[0].T.unflatten(1, (token_side, token_side))
        own = bilinear(features, *(anchor * scale_xy))
        expected = torch.tensor(
            [[F.cosine_similarity(own, bilinear(features, *(xy * scale_xy)), dim=0) for xy in row] for row in grid_xy]
        )
        torch.testing.assert_close(dequantise(torch.from_numpy(map_)), expected, rtol=0, atol=QUANTUM + 1e-6)
        spreads.append(expected.std())
    assert min(spreads) > 0.02  # or anything would pass


def test_a_prompt_is_the_centre_of_the_anchors_pixel_and_the_box_of_its_instance():
    anchors = Anchors(np.array([[0.5, 0.5], [7.5, 3.5], [9.5, 3.5]], np.float32), np.array([1, -1, 0]))
    boxes_xyxy = np.array([[0, 1, 10, 11], [2, 3, 12, 13]], np.float32)
    for boxes, expected in ((None, [None] * 3), (boxes_xyxy, [[2, 3, 12, 13], None, [0, 1, 10, 11]])):
        prompts = anchor_prompts(anchors, boxes)
        assert [prompt.points_xy_full.tolist() for prompt in prompts] == [[[0, 0]], [[7, 3]], [[9, 3]]]
        assert {tuple(prompt.point_labels.tolist()) for prompt in prompts} == {(1,)}
        found = [None if prompt.box_xyxy_full is None else prompt.box_xyxy_full.tolist() for prompt in prompts]
        assert found == expected
        assert all(prompt.mask_logits_lowres is None for prompt in prompts)


def test_boxes_are_in_pixels_of_the_tile_and_tight_to_what_it_shows():
    hw, tile = (40, 60), Window(10, 8, 42, 30)
    angle = np.zeros(hw, dtype=bool)  # an L whose foot the tile does not show
    angle[2:36, 12:15] = angle[33:36, 12:50] = True
    rng = np.random.default_rng(0)
    masks = [angle, np.zeros(hw, dtype=bool), np.ones(hw, dtype=bool), *(random_mask(rng, 60, 40) for _ in range(20))]
    found = boxes_in_tile([encode_mask(mask) for mask in masks], tile)
    assert found.dtype == np.float32
    assert found[:3].tolist() == [[2, 0, 5, 22], [0, 0, 0, 0], [0, 0, 32, 22]]
    for box, mask in zip(found, masks, strict=True):
        assert box.tolist() == tight_box(mask[8:30, 10:42]).tolist()
    assert boxes_in_tile([], tile).shape == (0, 4)


# Maps of tiles


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"prompt": "point-and-box"}, {"source": "truth"}], ids=str)
def test_the_map_of_an_anchor_in_a_tile_is_that_of_the_cropped_image_on_its_own(tmp_path, settings):
    tiny = tiny_coco(tmp_path, images=1, size=(150, 90))
    chosen = DistillSettings(anchors=24, cell_px=1, **settings)
    sam = SamChoice("sam_tiny", None, "cpu", "fp32", 8)
    (row,) = DistillWork(tiny.annotations, ImageFolder(tiny.image_root), tmp_path, sam, chosen).compute(Shard(0, (1,)))
    anchors = sample_anchors(1, (90, 150), [encode_mask(mask) for mask in tiny.masks.values()], chosen)
    np.testing.assert_array_equal(row.anchors_xy, anchors.xy)
    assert (anchors.instance >= 0).sum() >= 12
    assert len(np.unique(row.windows_xyxy, axis=0)) == 6
    engine = SamEngine(build_sam("sam_tiny"), precision="fp32")
    image = read_image(tiny.image_root / "0001.png")
    for number, (x0, y0, x1, y1) in enumerate(row.windows_xyxy.tolist()):
        assert x0 < anchors.xy[number, 0] < x1
        assert y0 < anchors.xy[number, 1] < y1
        alone = Anchors(anchors.xy[number : number + 1] - np.float32([x0, y0]), anchors.instance[number : number + 1])
        masks = [mask[y0:y1, x0:x1] for mask in tiny.masks.values()]
        if chosen.source == "truth":
            (expected,) = truth_maps(whole_image(y1 - y0, x1 - x0), alone, [encode_mask(mask) for mask in masks], 64)
        else:
            box = tight_box(masks[alone.instance[0]]) if chosen.prompt != "point" and alone.instance[0] >= 0 else None
            prompt = Prompt(alone.xy - np.float32(0.5), np.ones(1, dtype=int), box)
            embeddings = engine.encode([image[y0:y1, x0:x1]])
            (expected,) = similarity_maps(engine, embeddings, 0, alone.xy, [prompt], 64)
        # A prompt among others is rounded otherwise: by a level at most.
        assert np.abs(expected.astype(int) - row.maps[number]).max() <= 1
    assert len(np.unique(row.maps.reshape(24, -1), axis=0)) > 6  # more than windows


# Truth


def naive_share(mask: NDArray[np.bool_], side: int, row: int, column: int) -> float:
    """The share of a cell that a mask covers, pixel by pixel."""
    height, width = mask.shape
    top, bottom = row * height / side, (row + 1) * height / side
    left, right = column * width / side, (column + 1) * width / side
    covered = 0.0
    for y in range(int(top), min(ceil(bottom), height)):
        for x in range(int(left), min(ceil(right), width)):
            covered += mask[y, x] * (min(bottom, y + 1) - max(top, y)) * (min(right, x + 1) - max(left, x))
    return covered / ((bottom - top) * (right - left))


@pytest.mark.parametrize("side", [4, 7, 30])  # cells of many pixels, of parts of pixels, of less than one
@pytest.mark.parametrize("tile", [Window(0, 0, 33, 21), Window(5, 3, 29, 15)])
def test_truth_is_the_share_of_each_cell_that_the_anchors_own_instance_covers(side, tile):
    rng = np.random.default_rng(side)
    masks = [random_mask(rng, 33, 21) for _ in range(3)]
    masks.append(np.zeros((21, 33), dtype=bool))
    anchors = some_anchors(tile.height, tile.width, [2, 0, -1, 1, 2, -1])
    found = truth_maps(tile, anchors, [encode_mask(mask) for mask in masks], side)
    assert found.shape == (6, side, side)
    background = ~np.any(masks, axis=0)
    for map_, instance in zip(found, anchors.instance.tolist(), strict=True):
        own = (background if instance < 0 else masks[instance])[tile.in_image]
        expected = [[naive_share(own, side, row, column) for column in range(side)] for row in range(side)]
        similarity = dequantise(torch.from_numpy(map_)).numpy()
        np.testing.assert_allclose(similarity, expected, rtol=0, atol=QUANTUM + 1e-6)
    assert found.min() == 128
    assert found.max() == 255


def test_truth_without_instances_is_all_background():
    found = truth_maps(Window(0, 0, 8, 8), some_anchors(8, 8, [-1, -1]), [], 4)
    assert (found == 255).all()


def test_quantising_keeps_all_but_half_a_level():
    values = torch.linspace(-1, 1, 10_001)
    assert quantise(torch.tensor([-1.0, 1.0, 1.0000002])).tolist() == [0, 255, 255]
    assert (dequantise(quantise(values)) - values).abs().max() <= QUANTUM + 1e-6


@pytest.mark.parametrize("shape", [(3, 8, 16, 16), (2, 5, 4, 9), (2, 4, 1, 3), (1, 6, 1, 1)])
def test_similarities_are_those_of_features_interpolated_one_by_one(shape):
    generator = torch.Generator().manual_seed(shape[2])
    features = torch.randn(shape, generator=generator)
    own_xy = torch.rand(shape[0], 2, generator=generator)
    # Some on the rim and beyond it, some on the centres of features.
    positions_xy = torch.rand(500, 2, generator=generator) * 1.4 - 0.2
    positions_xy = torch.cat([positions_xy, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [1.0, 0.0]])])
    sampled = sample_features(features, torch.cat([own_xy[:, None], positions_xy.expand(shape[0], -1, -1)], dim=1))
    expected = (sampled[:, 1:] @ sampled[:, 0].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(similarities(features, own_xy, positions_xy), expected, rtol=0, atol=1e-5)
