"""Draws which image is pasted into which, from the seed, the ids of the images and the index of the copy alone."""

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

_PARTNERS, _COMPOSITES = 0, 1  # two independent streams of random numbers
_IDS = 2**64


@dataclass(frozen=True, order=True, slots=True)
class ImageKey:
    """An image of the unlabelled or of the labelled set; both sets may have the same ids."""

    image_id: int
    is_labelled: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """A composite to make.

    index: among all composites. composite_id: an id that no image has. donor: None if there is no other image.
    """

    index: int
    composite_id: int
    base_id: int
    copy: int
    donor: ImageKey | None

    def rng(self, seed: int) -> np.random.Generator:
        """Return the generator of the composite's own random numbers."""
        sequence = np.random.SeedSequence(seed, spawn_key=(_COMPOSITES, self.base_id % _IDS, self.copy))
        return np.random.default_rng(sequence)


class Pairing:
    """The pairs of a store of refined labels, copy by copy; in each copy every image is the base once.

    The images of a pair are pasted into each other, and the two composites are neighbours. Images without an instance
    to paste, and failed images, are bases only. Labelled images are donors only.
    """

    def __init__(self, refined: LabelStore, labelled: LabelStore | None, settings: AugmentSettings) -> None:
        self._base_ids: list[int] = refined.image_ids.tolist()
        self._seed = settings.seed
        self._donors = [ImageKey(image_id) for image_id in _pasteable_ids(refined, settings)]
        taken = refined.image_ids
        if labelled is not None:
            usable = labelled.column("instances/decision") != DECISIONS.index(Decision.DROPPED)
            self._donors += [ImageKey(image_id, is_labelled=True) for image_id in _ids_with_any(labelled, usable)]
            taken = np.union1d(taken, labelled.image_ids)
        self._taken_ids = np.unique(taken[taken > 0])

    def of_copy(self, copy: int) -> tuple[Pair, ...]:
        """Return all pairs of a copy; copy is any index from 0, without a limit."""
        indices = copy * len(self._base_ids) + np.arange(len(self._base_ids))
        # The ids of composites are 1, 2, 3, … without those that images have.
        new_ids_below = self._taken_ids - np.arange(1, len(self._taken_ids) + 1)
        new_ids = indices + 1 + np.searchsorted(new_ids_below, indices, side="right")
        drawn = _draw(self._base_ids, self._donors, self._seed, copy)
        return tuple(
            Pair(index, new_id, base_id, copy, donor)
            for index, new_id, (base_id, donor) in zip(indices.tolist(), new_ids.tolist(), drawn, strict=True)
        )


def _draw(
    base_ids: Sequence[int], donors: Sequence[ImageKey], seed: int, copy: int
) -> Iterator[tuple[int, ImageKey | None]]:
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
    """Return partners in a sequence: neighbours are each other's; the last three of an odd number form a cycle."""
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


def _ids_with_any(store: LabelStore, chosen: NDArray[np.bool_]) -> list[int]:
    """Return the ids of the images with any of the chosen instances; chosen: bool (instances,)."""
    before = np.concatenate([[0], np.cumsum(chosen)])
    offsets = store.column("images/instance_offsets")
    ids: list[int] = store.image_ids[np.diff(before[offsets]) > 0].tolist()
    return ids
