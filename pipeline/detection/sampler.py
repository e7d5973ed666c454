"""Which sample comes next: batches in set proportions, from a closed rule that can begin anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count, islice
from math import gcd, lcm

from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from pipeline.detection.datasets import Mixture
from pipeline.detection.registry import DATA_SAMPLERS
from pipeline.detection.sample_seed import Sample, shuffled
from pipeline.errors import StageError


class Apportionment:
    """How many samples of each source a batch has: the set shares, to less than one sample over any time.

    What a batch cannot have in whole samples is carried over to the next. After `period` batches everything
    repeats, so that the state at any batch is known at once.
    """

    def __init__(self, amounts: Sequence[float], batch_size: int) -> None:
        exact = [Fraction(str(amount)) for amount in amounts]
        scale = lcm(*(amount.denominator for amount in exact))
        weights = [int(amount * scale) for amount in exact]
        common = gcd(*weights)
        self._weights = [weight // common for weight in weights]
        self._total = sum(self._weights)
        self._batch_size = batch_size
        self.period = self._total // gcd(self._total, batch_size)

    def batches(self, first: int) -> Iterator[tuple[list[int], list[int]]]:
        """From a batch on: how many samples came before it, of each source, and how many it has."""
        rounds, start = divmod(first, self.period)
        drawn = [rounds * self.period * self._batch_size * weight // self._total for weight in self._weights]
        due = [0] * len(self._weights)  # in parts of a sample, of which `_total` make one
        for number in count():
            due = [left + self._batch_size * weight for left, weight in zip(due, self._weights, strict=True)]
            counts = self._counts(due)
            if number >= start:
                yield drawn, counts
            due = [left - taken * self._total for left, taken in zip(due, counts, strict=True)]
            drawn = [before + taken for before, taken in zip(drawn, counts, strict=True)]

    def _counts(self, due: Sequence[int]) -> list[int]:
        """One sample after the other goes to the source that is due the most."""
        left = list(due)
        counts = [0] * len(due)
        for _ in range(self._batch_size):
            source = left.index(max(left))
            left[source] -= self._total
            counts[source] += 1
        return counts


@DATA_SAMPLERS.register_module()
class MixtureSampler(Sampler[Sample]):
    """Endless samples of a mixture; each `batch_size * world_size` of them are one batch of all ranks.

    The batch of all ranks depends on its size, not on how many ranks share it, and every source is spread evenly
    over the ranks. Each source is gone through in shuffled passes; those that are empty or have the amount
    0 are left out. MMDetection's MultiSourceSampler rounds the shares once, and can only be resumed by drawing
    everything again.
    """

    def __init__(self, dataset: Mixture, batch_size: int, amounts: Sequence[float], seed: int) -> None:
        if len(amounts) != len(dataset.datasets):
            raise StageError(f"The sampler has {len(amounts)} amounts for {len(dataset.datasets)} datasets.")
        self._lengths = [len(each) for each in dataset.datasets]
        self._sources = [source for source, length in enumerate(self._lengths) if length and amounts[source] > 0]
        if not self._sources:
            raise StageError("There is nothing to train on: every source is empty or has the amount 0.")
        self._seed = seed
        self._batch_size = batch_size
        self._rank, self._ranks = get_dist_info()
        self._shares = Apportionment([amounts[source] for source in self._sources], batch_size * self._ranks)
        self._skipped = 0

    def __len__(self) -> int:
        return sum(self._lengths[source] for source in self._sources)

    def __iter__(self) -> Iterator[Sample]:
        first, within = divmod(self._skipped, self._batch_size)
        return islice(self._from_batch(first), within, None)

    def skip(self, num_samples: int) -> None:
        """Begin behind this rank's first `num_samples` samples, whatever was drawn until now."""
        if num_samples < 0:
            raise ValueError(f"num_samples must not be negative, it is {num_samples}")
        self._skipped = num_samples

    def _from_batch(self, first: int) -> Iterator[Sample]:
        orders = [_Order(self._seed, source, self._lengths[source]) for source in self._sources]
        for drawn, counts in self._shares.batches(first):
            batch = [
                order.sample(draw)
                for order, before, taken in zip(orders, drawn, counts, strict=True)
                for draw in range(before, before + taken)
            ]
            yield from batch[self._rank :: self._ranks]


class _Order:
    """The order in which one source's items are drawn; it keeps that of one pass."""

    def __init__(self, seed: int, source: int, length: int) -> None:
        self._seed, self._source, self._length = seed, source, length
        self._kept_pass = -1
        self._kept: list[int] = []

    def sample(self, draw: int) -> Sample:
        source_pass, place = divmod(draw, self._length)
        if source_pass != self._kept_pass:
            self._kept_pass = source_pass
            self._kept = shuffled(self._seed, self._source, source_pass, self._length)
        return Sample(self._source, self._kept[place], draw, self._seed)
