"""Pictures of labels: drawn where the masks are, told apart by what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.labels.drawing import Panel, category_colours, draw_panels
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from tests.tiny_labels import random_mask

GREY = 60
NAMES = {3: "cat", 7: "dog"}


def image_of(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def labels_of(width: int, height: int, decision: Decision, *categories: int) -> ImageLabels:
    """An instance a category, one beside the other, each in the middle of its part of the image."""
    instances = []
    part = width // len(categories)
    for place, category in enumerate(categories):
        mask = np.zeros((height, width), dtype=bool)
        mask[height // 4 : -height // 4, place * part + part // 4 : (place + 1) * part - part // 4] = True
        instances.append(label_from_mask(mask, category, 0.5, decision))
    return ImageLabels.of_instances(1, "a.png", width, height, tuple(instances))


def is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels == GREY).all())


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 48), (640, 480)), ((1600, 800), (1280, 640)), ((700, 300), (700, 300))]
)
def test_an_instance_is_painted_where_its_mask_is_and_nowhere_else(size, shown):
    labels = labels_of(*size, Decision.SAM, 3)
    picture = draw_panels(image_of(*size), [Panel("refined", labels)], NAMES)
    width, height = shown
    assert picture.dtype == np.uint8
    assert picture.shape[1] == width + 2 * 16
    body = picture[34 : 34 + height, 16 : 16 + width]
    assert is_grey(body[: height // 8])
    assert is_grey(body[-height // 8 :])
    inside = body[height // 3 : -height // 3, width // 3 : -width // 3].reshape(-1, 3)
    assert not is_grey(inside)
    assert (inside == inside[0]).all()


def test_a_category_has_the_same_colour_in_every_panel_and_in_the_legend():
    both, second = (labels_of(600, 480, Decision.SAM, *ids) for ids in ((3, 7), (7,)))
    picture = draw_panels(image_of(600, 480), [Panel("a", both), Panel("b", second)], NAMES)
    first_panel, second_panel = picture[34:514, 16:656], picture[34:514, 672:1312]
    cat, dog = first_panel[240, 160], first_panel[240, 480]
    assert not np.array_equal(cat, dog)
    assert np.array_equal(second_panel[240, 320], dog)


def test_pictures_that_belong_together_can_have_one_choice_of_colours():
    panels = [Panel("a", labels_of(600, 480, Decision.SAM, 7))]
    alone, together = (
        draw_panels(image_of(600, 480), panels, NAMES, colours) for colours in (None, category_colours([3, 7]))
    )
    of_7 = category_colours([3, 7])[7]
    assert not np.array_equal(alone, together)
    assert (together == of_7).all(axis=-1).any()
    assert not (alone == of_7).all(axis=-1).any()


def test_a_dropped_instance_has_a_broken_outline_and_no_filling():
    drawn = {
        decision: draw_panels(image_of(640, 480), [Panel("a", labels_of(640, 480, decision, 3))], NAMES)
        for decision in Decision
    }
    left = slice(16 + 155, 16 + 165), slice(34 + 200, 34 + 300)  # around the left outline
    assert is_grey(drawn[Decision.DROPPED][34 + 200 : 34 + 280, 16 + 200 : 16 + 400])
    coloured = {
        decision: (picture[left[1], left[0]].max(axis=(1, 2)) > 200).mean() for decision, picture in drawn.items()
    }
    assert coloured[Decision.SAM] == coloured[Decision.TEACHER] == 1
    assert 0.2 < coloured[Decision.DROPPED] < 0.9


def test_a_mask_of_one_pixel_is_still_seen_when_the_image_shrinks():
    mask = np.zeros((1500, 3000), dtype=bool)
    mask[700, 1400] = True
    labels = ImageLabels.of_instances(1, "a", 3000, 1500, (label_from_mask(mask, 3, 0.5, Decision.SAM),))
    picture = draw_panels(image_of(3000, 1500), [Panel("a", labels)], NAMES)
    around = picture[34 + 290 : 34 + 308, 16 + 588 : 16 + 606]
    assert not is_grey(around)


def test_panels_are_drawn_side_by_side():
    rng = np.random.default_rng(0)
    crowded = tuple(label_from_mask(random_mask(rng), 3 + 4 * (number % 2), 0.5, Decision.SAM) for number in range(60))
    teacher = ImageLabels.of_instances(1, "a.png", 50, 40, crowded)
    refined = replace(teacher, instances=tuple(replace(each, decision=Decision.DROPPED) for each in crowded))
    picture = draw_panels(image_of(50, 40), [Panel("teacher", teacher), Panel("refined", refined)], NAMES)
    assert picture.shape[1] == 2 * 640 + 3 * 16
    assert not np.array_equal(picture[34:546, 16:656], picture[34:546, 672:1312])


def test_an_image_that_failed_says_why():
    failed, empty = (
        Panel("a", labels)
        for labels in (ImageLabels.of_failure(1, "a", "cut off"), ImageLabels.of_instances(1, "a", 64, 48, ()))
    )
    image = image_of(64, 48)
    assert is_grey(draw_panels(image, [empty], {})[34 : 34 + 480, 16:656])
    assert not is_grey(draw_panels(image, [failed], {})[34 : 34 + 68, 16:656])


def test_an_image_of_another_size_is_refused():
    with pytest.raises(StoreError, match="refined: the labels are for an image of 64x48, not of 48x64"):
        draw_panels(image_of(48, 64), [Panel("refined", labels_of(64, 48, Decision.SAM, 3))], NAMES)
