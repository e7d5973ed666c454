"""Which image is pasted into which: drawn from the seed, the images' ids and the copy's number, from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.composite import pasteable
from pipeline.augment.settings import AugmentSettings
from pipeline.labels.label_columns import DECISIONS
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision

_PARTNERS, _COMPOSITES = 0, 1  # two streams of random numbers that have nothing in common
_IDS = 2**64


@dataclass(frozen=True, order=True, slots=True)
class ImageKey:
    """An image of the unlabelled set, or of the labelled one: the two may use the same ids."""

    image_id: int
    is_labelled: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """A composite to make.

    number: its place among all. composite_id: an id that no image has. donor: None where there is no other image.
    """

    number: int
    composite_id: int
    base_id: int
    copy: int
    donor: ImageKey | None

    def rng(self, seed: int) -> np.random.Generator:
        """The composite's own random numbers."""
        sequence = np.random.SeedSequence(seed, spawn_key=(_COMPOSITES, self.base_id % _IDS, self.copy))
        return np.random.default_rng(sequence)


class Pairing:
    """The pairs of a store of refined labels, copy by copy: in each, every image is the base once.

    Images are paired, each being pasted into the other, and the two composites follow one another. Images
    without an instance to paste, and images that failed, are bases only. Labelled ones are donors only.
    """

    def __init__(self, refined: LabelStore, labelled: LabelStore | None, settings: AugmentSettings) -> None:
        self._base_ids: list[int] = refined.image_ids.tolist()
        self._seed = settings.seed
        self._donors = [ImageKey(image_id) for image_id in _pasteable_ids(refined, settings)]
        taken = refined.image_ids
        if labelled is not None:
            self._donors += [ImageKey(image_id, is_labelled=True) for image_id in _donating_ids(labelled)]
            taken = np.union1d(taken, labelled.image_ids)
        self._taken_ids = np.unique(taken[taken > 0])

    def of_copy(self, copy: int) -> tuple[Pair, ...]:
        """All pairs of a copy, of any number from 0 on: there is no last one."""
        first = copy * len(self._base_ids)
        numbers = range(first, first + len(self._base_ids))
        drawn = _draw(self._base_ids, self._donors, self._seed, copy)
        return tuple(
            Pair(number, new_id, base_id, copy, donor)
            for number, new_id, (base_id, donor) in zip(numbers, self._new_ids(numbers), drawn, strict=True)
        )

    def _new_ids(self, numbers: range) -> list[int]:
        """The ids of the composites of these numbers: 1, 2, 3, … without those that images have."""
        new_ids_below = self._taken_ids - np.arange(1, len(self._taken_ids) + 1)
        places = np.array(numbers, dtype=np.int64)
        new_ids: list[int] = (places + 1 + np.searchsorted(new_ids_below, places, side="right")).tolist()
        return new_ids


def _draw(
    base_ids: Sequence[int], donors: Sequence[ImageKey], seed: int, copy: int
) -> Iterator[tuple[int, ImageKey | None]]:
    """Every base with its donor."""
    keys = sorted({*map(ImageKey, base_ids), *donors})
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PARTNERS, copy)))
    order = dict(zip(keys, rng.permutation(len(keys)).tolist(), strict=True))
    ring = sorted(donors, key=order.__getitem__)
    partners = _partners(ring)
    for key in ring:
        if not key.is_labelled:
            yield key.image_id, partners.get(key)
    for key in sorted(set(map(ImageKey, base_ids)) - set(ring)):
        yield key.image_id, ring[order[key] % len(ring)] if ring else None


def _partners(ring: Sequence[ImageKey]) -> Mapping[ImageKey, ImageKey]:
    """Two and two of a sequence, each the other's partner; of an odd number, the last three go round."""
    if len(ring) < 2:
        return {}
    partners: dict[ImageKey, ImageKey] = {}
    for first, second in zip(ring[::2], ring[1::2], strict=False):
        partners[first], partners[second] = second, first
    if len(ring) % 2:
        partners.update(zip(ring[-3:], (*ring[-2:], ring[-3]), strict=True))
    return partners


def _pasteable_ids(refined: LabelStore, settings: AugmentSettings) -> list[int]:
    offsets = refined.column("images/instance_offsets")
    pixels = refined.column("images/width").astype(np.int64) * refined.column("images/height")
    qualified = pasteable(
        refined.column("instances/decision"),
        refined.column("instances/score"),
        refined.column("instances/area"),
        np.repeat(pixels, np.diff(offsets)),
        settings,
    )
    return _ids_with_any(refined, qualified)


def _donating_ids(labelled: LabelStore) -> list[int]:
    return _ids_with_any(labelled, labelled.column("instances/decision") != DECISIONS.index(Decision.DROPPED))


def _ids_with_any(store: LabelStore, chosen: NDArray[np.bool_]) -> list[int]:
    """Ids of the images that have any of the chosen instances; chosen: (instances,)."""
    before = np.concatenate([[0], np.cumsum(chosen)])
    offsets = store.column("images/instance_offsets")
    ids: list[int] = store.image_ids[np.diff(before[offsets]) > 0].tolist()
    return ids
