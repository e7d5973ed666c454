"""Pairs: each image into the other, the same for the same seed, whatever else."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.augment.pairs import ImageKey, Pair, Pairing
from pipeline.augment.settings import AugmentSettings
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from tests.test_augment_composite import rectangle
from tests.tiny_labels import tiny_store

HW = (40, 60)


def row(image_id: int, decision: Decision | None = Decision.SAM) -> ImageLabels:
    """An image with one instance of a decision, or with none."""
    instances = () if decision is None else (label_from_mask(rectangle(HW, 5, 5, 20, 20), 3, 0.9, decision),)
    return ImageLabels.of_instances(image_id, f"{image_id}.png", HW[1], HW[0], instances)


def pairs(tmp_path, rows, labelled=None, **settings) -> tuple[Pair, ...]:
    chosen = AugmentSettings(**settings)
    donors = None if labelled is None else tiny_store(tmp_path / "labelled.zarr", labelled)
    pairing = Pairing(tiny_store(tmp_path / "refined.zarr", rows), donors, chosen)
    return tuple(pair for copy in range(chosen.copies) for pair in pairing.of_copy(copy))


def partners(made) -> dict[tuple[int, int], ImageKey | None]:
    return {(pair.base_id, pair.copy): pair.donor for pair in made}


@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_each_image_is_base_and_donor_once_a_copy(tmp_path, count):
    made = pairs(tmp_path, [row(image_id) for image_id in range(count)], copies=3)
    for copy in range(3):
        donors = {pair.base_id: pair.donor.image_id for pair in made if pair.copy == copy and pair.donor}
        assert sorted(donors) == sorted(donors.values()) == list(range(count))
        assert all(base != donor for base, donor in donors.items())
        mutual = sum(donors[donor] == base for base, donor in donors.items())
        assert mutual == (count if count % 2 == 0 else count - 3)
    assert len(set(partners(made).values())) == count


def test_the_two_of_a_pair_follow_one_another(tmp_path):
    made = pairs(tmp_path, [row(image_id) for image_id in range(10)])
    for first, second in zip(made[::2], made[1::2], strict=True):
        assert (first.base_id, second.base_id) == (second.donor.image_id, first.donor.image_id)


def test_pairs_depend_on_seed_and_ids_alone(tmp_path):
    ids = [7, -3, 2**63 - 1, 0, 12, 5, 100]
    made = pairs(tmp_path / "a", [row(image_id) for image_id in ids], copies=2)
    assert pairs(tmp_path / "b", [row(image_id) for image_id in reversed(ids)], copies=2) == made
    fewer = pairs(tmp_path / "c", [row(image_id) for image_id in ids])
    assert [pair for pair in made if pair.copy == 0] == list(fewer)
    assert partners(pairs(tmp_path / "d", [row(image_id) for image_id in ids], copies=2, seed=1)) != partners(made)


def test_ids_are_new_and_used_once(tmp_path):
    made = pairs(tmp_path, [row(image_id) for image_id in (1, 2, 4, 6)], [row(3), row(2)], copies=2)
    assert [pair.composite_id for pair in made] == [5, *range(7, 14)]
    assert [pair.number for pair in made] == list(range(8))


def test_every_composite_has_random_numbers_of_its_own(tmp_path):
    made = pairs(tmp_path, [row(image_id) for image_id in range(6)], copies=2)
    assert len({pair.rng(0).random() for pair in made}) == 12
    assert made[0].rng(0).random() == made[0].rng(0).random() != made[0].rng(1).random()


def test_images_without_an_instance_to_paste_are_bases_only(tmp_path):
    rows = [
        *(row(image_id) for image_id in range(4)),
        row(10, None),
        row(11, Decision.TEACHER),
        ImageLabels.of_failure(12, "12.png", "the file is empty"),
    ]
    made = pairs(tmp_path, rows, copies=8)
    assert {pair.donor.image_id for pair in made} == {0, 1, 2, 3}
    assert Counter(pair.base_id for pair in made) == dict.fromkeys([0, 1, 2, 3, 10, 11, 12], 8)
    assert len({pair.donor for pair in made if pair.base_id == 10}) > 1


def test_an_image_alone_has_no_partner(tmp_path):
    assert partners(pairs(tmp_path, [row(1), row(2, None)])) == {(1, 0): None, (2, 0): ImageKey(1)}


def test_labelled_images_are_donors_and_never_bases(tmp_path):
    labelled = [row(1), row(2, Decision.TEACHER), row(3, Decision.DROPPED), row(4, None)]
    made = pairs(tmp_path, [row(image_id) for image_id in range(6)], labelled, copies=20)
    assert Counter(pair.base_id for pair in made) == dict.fromkeys(range(6), 20)
    donors = {pair.donor for pair in made}
    assert {key.image_id for key in donors if key.is_labelled} == {1, 2}
    assert {key.image_id for key in donors if not key.is_labelled} == set(range(6))
