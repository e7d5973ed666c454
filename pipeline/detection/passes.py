"""The passes over a source of training images: which item each draw is, also where rare classes are repeated."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.detection.sample_seed import Sample, rounding_numbers, shuffled


def repeat_factors(classes_by_image: Sequence[Collection[int]], threshold: float) -> NDArray[np.float64]:
    """Return how many times each image is due in a pass: the largest factor among its classes, 1 without any.

    The factor of a class in a share f of the images is max(1, sqrt(threshold / f)), as for LVIS.
    """
    images_with = Counter(category for classes in classes_by_image for category in set(classes))
    images = len(classes_by_image)
    factors = {
        category: max(1.0, float(np.sqrt(threshold * images / count))) for category, count in images_with.items()
    }
    largest = [max((factors[category] for category in classes), default=1.0) for classes in classes_by_image]
    return np.array(largest, dtype=np.float64)


class Passes:
    """The endless draws from a source: shuffled passes over its items.

    repeats: how many times each item is due in a pass, at least 1; None: once. The fraction of a repeat is rounded up
    or down at random in each pass, with its own probability, so that passes differ a little in length. A pass follows
    from the seed and its number alone.
    """

    def __init__(self, seed: int, source: int, length: int, repeats: NDArray[np.float64] | None = None) -> None:
        self._seed, self._source, self._length = seed, source, length
        self._repeats = repeats
        self._starts = [0]  # of passes with repeats, as far as they are known
        self._last: tuple[int, list[int]] | None = None

    def sample(self, draw: int) -> Sample:
        """Return a draw from the source."""
        source_pass, index = self._index(draw)
        if self._last is None or self._last[0] != source_pass:
            self._last = source_pass, self._shuffled_items(source_pass)
        return Sample(self._source, self._last[1][index], draw, self._seed)

    def _index(self, draw: int) -> tuple[int, int]:
        """Return the pass of a draw, and its index in the pass."""
        if self._repeats is None:
            return divmod(draw, self._length)
        while self._starts[-1] <= draw:
            self._starts.append(self._starts[-1] + int(self._counts(len(self._starts) - 1).sum()))
        source_pass = bisect_right(self._starts, draw) - 1
        return source_pass, draw - self._starts[source_pass]

    def _counts(self, source_pass: int) -> NDArray[np.int64]:
        """Return how many times each item comes in a pass with repeats."""
        assert self._repeats is not None
        whole = np.floor(self._repeats)
        up = rounding_numbers(self._seed, self._source, source_pass, self._length) < self._repeats - whole
        counts: NDArray[np.int64] = whole.astype(np.int64) + up
        return counts

    def _shuffled_items(self, source_pass: int) -> list[int]:
        if self._repeats is None:
            return shuffled(self._seed, self._source, source_pass, self._length)
        items = np.repeat(np.arange(self._length), self._counts(source_pass))
        drawn: list[int] = items[shuffled(self._seed, self._source, source_pass, len(items))].tolist()
        return drawn
