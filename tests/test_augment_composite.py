"""Composites: what is pasted, what it hides, and that every mask says what the picture shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.augment.composite import LabelledImage, composite
from pipeline.augment.settings import AugmentSettings
from pipeline.labels.checking import row_problems
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status, label_from_mask

BASE_GREY, DONOR_GREY = 10, 20


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rectangle(size_hw: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(size_hw, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def picture(
    masks: list[np.ndarray],
    first_colour: int,
    background: int,
    size_hw: tuple[int, int] = (40, 60),
    decision: Decision = Decision.SAM,
    score: float = 0.9,
) -> LabelledImage:
    """An instance of every mask, each in a colour and of a category of its own: first_colour, first_colour + 1, …"""
    image = np.full((*size_hw, 3), background, dtype=np.uint8)
    instances = []
    for colour, mask in enumerate(masks, first_colour):
        image[mask] = colour
        instances.append(label_from_mask(mask, colour, score, decision))
    return LabelledImage(image, ImageLabels.of_instances(5, "base.png", size_hw[1], size_hw[0], tuple(instances)))


def masks_of(made: LabelledImage) -> dict[int, np.ndarray]:
    return {each.category_id: made.labels.mask(each) for each in made.labels.instances}


def require_sound(made: LabelledImage) -> None:
    """Boxes and areas are those of the masks, and the row is fit for a store."""
    assert made.image_rgb.dtype == np.uint8
    assert made.image_rgb.shape == (made.labels.height, made.labels.width, 3)
    assert row_problems([made.labels]) == []
    for each in made.labels.instances:
        x, y, width, height = coco_mask.toBbox(made.labels.rle(each))
        assert each.box_xyxy == (x, y, x + width, y + height)


def random_masks(random: np.random.Generator, size_hw: tuple[int, int], count: int) -> list[np.ndarray]:
    """Disjoint ragged rectangles, some at the border."""
    free = np.ones(size_hw, dtype=bool)
    masks = []
    for _ in range(count):
        x0, y0 = (int(random.integers(-4, side - 2)) for side in size_hw[::-1])
        mask = rectangle(size_hw, max(x0, 0), max(y0, 0), x0 + int(random.integers(6, 30)), y0 + 12)
        mask &= free & (random.uniform(size=size_hw) < 0.95)
        if mask.any():
            masks.append(mask)
            free &= ~mask
    return masks


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    placement=st.sampled_from(["in-place", "moved"]),
    donor_hw=st.sampled_from([(40, 60), (64, 30), (20, 90)]),
    min_visible_share=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_every_mask_is_read_back_from_the_picture(seed, placement, donor_hw, min_visible_share):
    random = rng(seed)
    base = picture(random_masks(random, (40, 60), 5), 100, BASE_GREY)
    donor = picture(random_masks(random, donor_hw, 5), 200, DONOR_GREY, donor_hw)
    chosen = AugmentSettings(placement=placement, min_visible_share=min_visible_share, min_area_px=0.0)
    made = composite(base, donor, chosen, rng(seed))
    require_sound(made)
    for colour, mask in masks_of(made).items():
        assert np.array_equal(mask, (made.image_rgb == colour).all(axis=2)), colour
    assert not any((first & second).any() for first, second in combinations(masks_of(made).values(), 2))
    assert len(masks_of(made)) == len(made.labels.instances)
    # What has no label is background, or what is left of the base's instances that were dropped.
    labelled = np.zeros((40, 60), dtype=bool)
    for mask in masks_of(made).values():
        labelled |= mask
    assert (made.image_rgb[~labelled] < 200).all()


def test_without_overlap_class_counts_add_up():
    base = picture([rectangle((40, 60), 0, 0, 10, 10), rectangle((40, 60), 20, 0, 30, 10)], 100, BASE_GREY)
    donor = picture([rectangle((40, 60), 0, 20, 10, 30), rectangle((40, 60), 50, 30, 60, 40)], 100, DONOR_GREY)
    made = composite(base, donor, AugmentSettings(), rng())
    counts = [Counter(each.category_id for each in row.labels.instances) for row in (made, base, donor)]
    assert counts[0] == counts[1] + counts[2]
    assert (made.labels.image_id, made.labels.file_name) == (5, "base.png")
    assert (base.image_rgb != 101).any()
    assert base.labels.instances == made.labels.instances[:2]


@pytest.mark.parametrize(
    ("changed", "qualifies"),
    [
        ({"decision": Decision.TEACHER}, False),
        ({"decision": Decision.DROPPED}, False),
        ({"score": 0.6999}, False),
        ({"score": 0.7}, True),
        ({"score": float(np.float32(0.7))}, True),
        ({}, True),
    ],
)
def test_only_what_qualifies_is_pasted(changed, qualifies):
    base = picture([], 100, BASE_GREY)
    donor = picture([rectangle((40, 60), 5, 5, 20, 20)], 200, DONOR_GREY)
    (label,) = donor.labels.instances
    donor = replace(donor, labels=replace(donor.labels, instances=(replace(label, **changed),)))
    made = composite(base, donor, AugmentSettings(min_score=0.7), rng())
    assert bool(made.labels.instances) == qualifies
    assert (made.labels.status is Status.OK) == qualifies
    assert (made.image_rgb == 200).any() == qualifies


@pytest.mark.parametrize(
    ("min_area_px", "min_area_share", "count"), [(100, 0, 2), (101, 0, 1), (0, 0.05, 1), (0, 0, 2)]
)
def test_small_instances_are_not_pasted(min_area_px, min_area_share, count):
    donor = picture([rectangle((40, 60), 0, 0, 10, 10), rectangle((40, 60), 20, 0, 40, 10)], 200, DONOR_GREY)
    chosen = AugmentSettings(min_area_px=float(min_area_px), min_area_share=float(min_area_share))
    assert len(composite(picture([], 100, BASE_GREY), donor, chosen, rng()).labels.instances) == count


def test_instances_that_people_labelled_always_qualify():
    masks = [rectangle((40, 60), 5, 5, 7, 7), rectangle((40, 60), 20, 5, 30, 20)]
    donor = replace(picture(masks, 200, DONOR_GREY, decision=Decision.TEACHER), is_truth=True)
    crowd = replace(donor.labels.instances[1], decision=Decision.DROPPED)
    donor = replace(donor, labels=replace(donor.labels, instances=(donor.labels.instances[0], crowd)))
    made = composite(picture([], 100, BASE_GREY), donor, AugmentSettings(min_area_px=50.0, min_score=1.0), rng())
    assert list(masks_of(made)) == [200]


@pytest.mark.parametrize(("covered_columns", "kept"), [(17, True), (18, True), (19, False), (20, False)])
def test_what_is_covered_is_dropped_below_the_visible_share(covered_columns, kept):
    base = picture([rectangle((40, 60), 10, 10, 30, 20)], 100, BASE_GREY)
    donor = picture([rectangle((40, 60), 10, 5, 10 + covered_columns, 25)], 200, DONOR_GREY)
    made = composite(base, donor, AugmentSettings(min_visible_share=0.1), rng())
    assert (100 in masks_of(made)) == kept
    if kept:
        assert made.labels.instances[0].area == (20 - covered_columns) * 10
    require_sound(made)


def test_regions_to_be_ignored_stay_however_little_is_left():
    base = picture([rectangle((40, 60), 10, 10, 30, 20)], 100, BASE_GREY, decision=Decision.DROPPED)
    for columns, left in ((19, 1), (20, 0)):
        donor = picture([rectangle((40, 60), 10, 5, 10 + columns, 25)], 200, DONOR_GREY)
        instances = composite(base, donor, AugmentSettings(min_visible_share=0.5), rng()).labels.instances
        assert [each.area for each in instances if each.decision is Decision.DROPPED] == [10] * left


def test_the_base_keeps_its_own_decisions_and_measures():
    base = picture([rectangle((40, 60), 0, 0, 20, 20)], 100, BASE_GREY, decision=Decision.TEACHER, score=0.2)
    label = replace(base.labels.instances[0], predicted_iou=0.5, agreement=0.25, candidate=2)
    base = replace(base, labels=replace(base.labels, instances=(label,)))
    donor = picture([rectangle((40, 60), 10, 0, 30, 20)], 200, DONOR_GREY)
    left = composite(base, donor, AugmentSettings(), rng()).labels.instances[0]
    kept: InstanceLabel = replace(label, box_xyxy=left.box_xyxy, rle_counts=left.rle_counts, area=left.area)
    assert left == kept
    assert left.area == 200


def test_an_instance_that_others_hide_is_not_pasted_at_all():
    """Donor masks may overlap: of one under another, no pixel is shown without a label."""
    masks = [rectangle((40, 60), 0, 0, 20, 20), rectangle((40, 60), 1, 0, 20, 20)]
    donor = picture(masks, 200, DONOR_GREY)
    made = composite(picture([], 100, BASE_GREY), donor, AugmentSettings(min_visible_share=0.1), rng())
    assert list(masks_of(made)) == [201]
    assert (made.image_rgb[:, 0] == BASE_GREY).all()


def test_one_instance_that_covers_everything():
    base = picture([rectangle((40, 60), 10, 10, 30, 20), rectangle((40, 60), 0, 0, 1, 1)], 100, BASE_GREY)
    donor = picture([np.ones((40, 60), dtype=bool)], 200, DONOR_GREY)
    made = composite(base, donor, AugmentSettings(), rng())
    assert list(masks_of(made)) == [200]
    assert (made.image_rgb == 200).all()
    made = composite(donor, base, AugmentSettings(), rng())
    assert made.labels.instances[0].area == 40 * 60 - 200
    require_sound(made)


def test_images_without_instances_and_without_a_partner_stay_as_they_are():
    base = picture([rectangle((40, 60), 10, 10, 30, 20)], 100, BASE_GREY)
    for donor in (None, picture([], 200, DONOR_GREY)):
        made = composite(base, donor, AugmentSettings(placement="moved"), rng())
        assert np.array_equal(made.image_rgb, base.image_rgb)
        assert made.labels == base.labels
        assert made.image_rgb is not base.image_rgb


def test_in_place_an_instance_outside_the_base_is_left_out_and_one_at_its_border_is_cut():
    base = picture([], 100, BASE_GREY, (20, 20))
    masks = [
        rectangle((40, 60), 30, 0, 50, 10),
        rectangle((40, 60), 10, 5, 30, 15),
        rectangle((40, 60), 19, 15, 59, 40),
    ]
    made = composite(base, picture(masks, 200, DONOR_GREY), AugmentSettings(min_visible_share=0.1), rng())
    assert {colour: int(mask.sum()) for colour, mask in masks_of(made).items()} == {201: 100}
    require_sound(made)


@pytest.mark.parametrize("seed", range(20))
def test_moved_instances_are_rescaled_within_the_range_and_stay_in_sight(seed):
    donor = picture([rectangle((40, 60), 5, 5, 25, 25)], 200, DONOR_GREY)
    chosen = AugmentSettings(placement="moved", scale=(0.5, 2.0), min_visible_share=0.3)
    (instance,) = composite(picture([], 100, BASE_GREY), donor, chosen, rng(seed)).labels.instances
    assert 0.3 * 10 * 10 <= instance.area <= 40 * 40
    again = composite(picture([], 100, BASE_GREY), donor, chosen, rng(seed))
    assert again.labels.instances == (instance,)


def test_moved_instances_are_moved():
    donor = picture([rectangle((40, 60), 5, 5, 25, 25)], 200, DONOR_GREY)
    chosen = AugmentSettings(placement="moved")
    boxes = {
        composite(picture([], 100, BASE_GREY), donor, chosen, rng(seed)).labels.instances[0].box_xyxy
        for seed in range(9)
    }
    assert len(boxes) > 5


def test_a_soft_edge_mixes_only_at_the_outline_and_changes_no_mask():
    base = picture([], 100, 0)
    donor = picture([rectangle((40, 60), 20, 10, 40, 30)], 200, 100)
    hard = composite(base, donor, AugmentSettings(), rng())
    soft = composite(base, donor, AugmentSettings(edge_blend_px=4.0), rng())
    assert soft.labels == hard.labels
    row = soft.image_rgb[20, :, 0]
    assert row[:18].tolist() == [0] * 18
    assert row[18:22].tolist() == [12, 38, 125, 175]  # 1/8 and 3/8 of 100, 5/8 and 7/8 of 200
    assert row[22:38].tolist() == [200] * 16


def test_a_soft_edge_at_borders_and_between_sizes():
    base = picture([rectangle((40, 60), 0, 0, 60, 40)], 100, BASE_GREY)
    donor = picture([np.ones((64, 30), dtype=bool)], 200, DONOR_GREY, (64, 30))
    for placement in ("in-place", "moved"):
        chosen = AugmentSettings(edge_blend_px=7.0, placement=placement)
        require_sound(composite(base, donor, chosen, rng(1)))


def test_sources_are_left_alone():
    base = picture([rectangle((40, 60), 10, 10, 30, 20)], 100, BASE_GREY)
    donor = picture([rectangle((40, 60), 0, 0, 30, 20)], 200, DONOR_GREY)
    for image in (base, donor):
        image.image_rgb.setflags(write=False)  # a write would raise
    for chosen in (AugmentSettings(), AugmentSettings(placement="moved", edge_blend_px=3.0)):
        composite(base, donor, chosen, rng())
