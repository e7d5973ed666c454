"""Chooses the samples of batches in set proportions, by a rule that can start at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import count, islice
from math import gcd, lcm

from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from pipeline.detection.datasets import Mixture
from pipeline.detection.registry import DATA_SAMPLERS
from pipeline.detection.sample_seed import Sample, shuffled
from pipeline.errors import StageError


class Apportionment:
    """The number of samples of each source in a batch; over time each share is exact to less than one sample.

    Fractions of a sample are carried over to the next batch. After `period` batches the counts repeat, so that the
    state at any batch is known at once.
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
        """Yield, from batch `first` on, the number of samples of each source before the batch and in it."""
        rounds, start = divmod(first, self.period)
        drawn = [rounds * self.period * self._batch_size * weight // self._total for weight in self._weights]
        due = [0] * len(self._weights)  # in units of 1 / `_total` of a sample
        for batch in count():
            due = [left + self._batch_size * weight for left, weight in zip(due, self._weights, strict=True)]
            counts = self._counts(due)
            if batch >= start:
                yield drawn, counts
            due = [left - taken * self._total for left, taken in zip(due, counts, strict=True)]
            drawn = [before + taken for before, taken in zip(drawn, counts, strict=True)]

    def _counts(self, due: Sequence[int]) -> list[int]:
        """Give each sample of a batch to the source that is due the most."""
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

    The batch of all ranks depends on its size, not on the number of ranks, and every source is spread evenly over the
    ranks. Each source is read in shuffled passes; sources that are empty or have the amount 0 are left out.
    MMDetection's MultiSourceSampler rounds the shares once, and resumes only by drawing all samples again.
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
        """Start after the first `num_samples` samples of this rank, whatever was drawn before."""
        self._skipped = num_samples

    def _from_batch(self, first: int) -> Iterator[Sample]:
        samplers = [_samples_of(self._seed, source, self._lengths[source]) for source in self._sources]
        for drawn, counts in self._shares.batches(first):
            batch = [
                sample(draw)
                for sample, before, taken in zip(samplers, drawn, counts, strict=True)
                for draw in range(before, before + taken)
            ]
            yield from batch[self._rank :: self._ranks]


def _samples_of(seed: int, source: int, length: int) -> Callable[[int], Sample]:
    """Return a function from draws of a source to samples; it keeps the order of one pass."""

    @lru_cache(maxsize=1)
    def order_of(source_pass: int) -> list[int]:
        return shuffled(seed, source, source_pass, length)

    def sample(draw: int) -> Sample:
        source_pass, index = divmod(draw, length)
        return Sample(source, order_of(source_pass)[index], draw, seed)

    return sample
