"""Which labelled images are kept from the teacher."""

from __future__ import annotations

import pytest

from pipeline.datasets.held_out import held_out_ids


@pytest.mark.parametrize(
    ("images", "share", "count"),
    [(100, 0.2, 20), (100, 0.0, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.99, 2), (1, 0.5, 0), (0, 0.5, 0)],
)
def test_a_share_of_the_images_is_held_out_never_none_and_never_all(images, share, count):
    ids = range(1, images + 1)
    held_out = held_out_ids(ids, share)
    assert len(held_out) == count
    assert held_out <= set(ids)


def test_the_choice_is_by_id_whatever_the_order():
    assert held_out_ids(range(50), 0.3) == held_out_ids(range(49, -1, -1), 0.3)
    assert held_out_ids(range(50), 0.3) != frozenset(range(15))


def test_a_larger_share_holds_out_the_same_images_and_more():
    assert held_out_ids(range(50), 0.1) < held_out_ids(range(50), 0.3)


def test_an_image_more_changes_no_other_ones_draw():
    before, after = held_out_ids(range(100), 0.2), held_out_ids(range(101), 0.2)
    assert len(before - after) <= 1
