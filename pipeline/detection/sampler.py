"""Chooses the samples of steps in set proportions, by a rule that can start at any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count, islice
from math import gcd, lcm

from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from pipeline.detection.datasets import Mixture
from pipeline.detection.passes import Passes
from pipeline.detection.registry import DATA_SAMPLERS
from pipeline.detection.sample_seed import Sample
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


@dataclass(frozen=True)
class _Batch:
    """One batch of every step: where its samples come from, and in which shares."""

    passes: tuple[Passes, ...]
    shares: Apportionment

    def samples(self, first: int) -> Iterator[list[Sample]]:
        """Yield the samples of all ranks, step by step from step `first` on, source by source."""
        for drawn, counts in self.shares.batches(first):
            yield [
                passes.sample(draw)
                for passes, before, taken in zip(self.passes, drawn, counts, strict=True)
                for draw in range(before, before + taken)
            ]


@DATA_SAMPLERS.register_module()
class MixtureSampler(Sampler[Sample]):
    """Endless samples of a mixture, step by step; a step has one or more batches, one after the other.

    batch_sizes: samples of each batch in one rank. amounts: for each batch the relative amounts of its sources, which
    are the mixture's, in order. first_alone_from: the step from which on all samples are of the first batch's only
    source. The batches of all ranks depend on their size, not on the number of ranks. Every rank gets as many samples
    of a batch as the others; of a source at most one more. Each source is read in shuffled passes (see `Passes`);
    sources that are empty or have the amount 0 are left out.
    MMDetection's MultiSourceSampler rounds the shares once, and resumes only by drawing all samples again.
    """

    def __init__(
        self,
        dataset: Mixture,
        batch_sizes: Sequence[int],
        amounts: Sequence[Sequence[float]],
        seed: int,
        first_alone_from: int | None = None,
    ) -> None:
        every = list(chain.from_iterable(amounts))
        if len(every) != len(dataset.datasets):
            raise StageError(f"The sampler has {len(every)} amounts for {len(dataset.datasets)} datasets.")
        self._rank, self._ranks = get_dist_info()
        self._step_size, self._first_size = sum(batch_sizes), batch_sizes[0]
        self._first_alone_from = first_alone_from
        self._lengths = [len(each) if amount else 0 for each, amount in zip(dataset.datasets, every, strict=True)]
        self._skipped = 0
        self._batches = []
        first = 0
        for size, of_sources in zip(batch_sizes, amounts, strict=True):
            sources = range(first, first + len(of_sources))
            first += len(of_sources)
            used = [source for source in sources if self._lengths[source]]
            if not used:
                raise StageError(
                    f"A batch of {size * self._ranks} images cannot be filled: "
                    "each of its sources is empty or has the amount 0."
                )
            passes = [Passes(seed, source, self._lengths[source], dataset.datasets[source].repeats) for source in used]
            shares = Apportionment([every[source] for source in used], size * self._ranks)
            self._batches.append(_Batch(tuple(passes), shares))

    def __len__(self) -> int:
        return sum(self._lengths)

    def __iter__(self) -> Iterator[Sample]:
        first, within = divmod(self._skipped, self._step_size)
        return islice(self._from_step(first), within, None)

    def skip(self, num_samples: int) -> None:
        """Start after the first `num_samples` samples of this rank, whatever was drawn before."""
        self._skipped = num_samples

    def _from_step(self, first: int) -> Iterator[Sample]:
        steps = zip(*(batch.samples(first) for batch in self._batches), strict=True)
        mixed = None if self._first_alone_from is None else max(self._first_alone_from - first, 0)
        for batches in islice(steps, mixed):
            for batch in batches:
                yield from batch[self._rank :: self._ranks]
        if self._first_alone_from is not None:
            for batch in self._first_alone(max(first - self._first_alone_from, 0)):
                yield from batch[self._rank :: self._ranks]

    def _first_alone(self, steps_done: int) -> Iterator[list[Sample]]:
        """Yield the samples of all ranks, step by step, after so many steps with the source of the first batch alone.

        Its passes go on where the steps before left them.
        """
        assert self._first_alone_from is not None
        (passes,) = self._batches[0].passes
        size = self._step_size * self._ranks
        drawn = self._first_alone_from * self._first_size * self._ranks + steps_done * size
        for start in count(drawn, size):
            yield [passes.sample(draw) for draw in range(start, start + size)]
