from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.coco.segmentation import RleJson, decode_segmentation, encode_segmentation, to_rle
from pipeline.masks.run_lengths import compressed_counts_problems
from tests.tiny_coco import run_lengths


def random_mask(rng, density):
    return rng.random(rng.integers(1, 200, 2)) < density


def rle_of(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.mark.parametrize("density", [0.0, 0.002, 0.1, 0.5, 1.0])
def test_counts_of_pycocotools_add_up(density):
    rng = np.random.default_rng(1)
    masks = [random_mask(rng, density) for _ in range(300)]
    counts = [rle_of(mask)["counts"].decode() for mask in masks]
    pixels = [mask.size for mask in masks]
    assert compressed_counts_problems(counts, pixels) == [None] * 300
    wrong = [size + (number % 3 == 0) for number, size in enumerate(pixels)]
    found = compressed_counts_problems(counts, wrong)
    assert [number for number, problem in enumerate(found) if problem] == list(range(0, 300, 3))
    assert found[0] == f"adds up to {pixels[0]} pixels, the image has {pixels[0] + 1}"


def test_counts_of_a_large_image_add_up():
    rle = {"size": [13_000, 13_000], "counts": [5, 10, 13_000 * 13_000 - 15]}
    text = coco_mask.frPyObjects(rle, *rle["size"])["counts"].decode()
    assert compressed_counts_problems([text], [13_000 * 13_000]) == [None]


run_texts = st.lists(
    st.builds(lambda more, last: "".join(more) + last, st.text("PQo_`", max_size=5), st.sampled_from("019?@CNO")),
    min_size=1,
    max_size=9,
).map("".join)


def plain_run_lengths(text):
    """The definition, character by character."""
    values, value, place = [], 0, 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << 5 * place
        place += 1
        if not code & 32:
            value -= (1 << 5 * place) if code & 16 else 0
            values.append(value + (values[-2] if len(values) > 2 else 0))
            value, place = 0, 0
    return values


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(run_texts, min_size=1, max_size=6))
def test_many_texts_at_once_are_decoded_as_each_alone(texts):
    expected = [plain_run_lengths(text) for text in texts]
    found = compressed_counts_problems(texts, [sum(lengths) for lengths in expected])
    assert found == ["holds a negative run length" if min(lengths) < 0 else None for lengths in expected]


def test_plain_definition_is_that_of_pycocotools():
    mask = np.random.default_rng(2).random((30, 40)) < 0.3
    assert plain_run_lengths(rle_of(mask)["counts"].decode()) == run_lengths(mask)


def test_all_forms_give_the_same_mask():
    rng = np.random.default_rng(3)
    mask = random_mask(rng, 0.3)
    height, width = mask.shape
    compressed = RleJson((height, width), rle_of(mask)["counts"].decode())
    uncompressed = RleJson((height, width), run_lengths(mask))
    for form in (compressed, uncompressed):
        rle = to_rle(form, width, height)
        assert isinstance(rle["counts"], bytes)
        np.testing.assert_array_equal(coco_mask.decode(rle), mask)


def test_parts_of_a_mask_are_joined():
    squares = [[2.0, 2, 6, 2, 6, 6, 2, 6], [10.0, 2, 14, 2, 14, 6, 10, 6]]
    mask = coco_mask.decode(to_rle(squares, 20, 10))
    assert mask.sum() == 32
    assert mask[4, 4] and mask[4, 12] and not mask[4, 8]


def test_encoded_segmentations_decode_to_what_they_were():
    mask = np.random.default_rng(4).random((9, 7)) < 0.5
    rle = decode_segmentation(encode_segmentation(rle_of(mask)))
    assert isinstance(rle, RleJson)
    np.testing.assert_array_equal(coco_mask.decode(to_rle(rle, 7, 9)), mask)
    polygons = [[0.1, 0.2, 5.0, 0.3, 5.5, 6.75]]
    assert decode_segmentation(encode_segmentation(polygons)) == polygons
