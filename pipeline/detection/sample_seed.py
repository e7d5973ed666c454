"""The identity of a training sample, which alone decides its random numbers.

A sample is the same in any process, in any order of loading, and in a training that was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_SHUFFLES, _TRANSFORMS, _REPLACEMENTS, _ROUNDINGS = 0, 1, 2, 3  # independent streams of random numbers


class Sample(NamedTuple):
    """One draw from a mixture of sources.

    source: its index. item: index in the source. draw: number of earlier draws from the source. seed: the training's.
    """

    source: int
    item: int
    draw: int
    seed: int

    def replacements_rng(self) -> np.random.Generator:
        """Return the generator that chooses replacements of an item that cannot be used."""
        return np.random.default_rng(self._sequence(_REPLACEMENTS))

    @contextmanager
    def randomness(self) -> Iterator[None]:
        """Seed `random`, `numpy.random` and torch's CPU generator for the sample; restore them afterwards."""
        python_state, numpy_state = random.getstate(), np.random.get_state()
        torch_state = torch.default_generator.get_state()
        python_seed, numpy_seed, torch_seed = self._sequence(_TRANSFORMS).generate_state(3).tolist()
        try:
            random.seed(python_seed)
            np.random.seed(numpy_seed)
            torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would seed GPUs, too
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.default_generator.set_state(torch_state)

    def _sequence(self, stream: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(stream, self.source, self.draw))


def shuffled(seed: int, source: int, source_pass: int, length: int) -> list[int]:
    """Return the order of the items of a source in one pass over it."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_SHUFFLES, source, source_pass))
    order: list[int] = np.random.default_rng(sequence).permutation(length).tolist()
    return order


def rounding_numbers(seed: int, source: int, source_pass: int, length: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each item of a source in one pass, by which its share of a draw is rounded."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_ROUNDINGS, source, source_pass))
    return np.random.default_rng(sequence).random(length)
