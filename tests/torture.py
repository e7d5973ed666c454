"""One test, twice: a sample of its tries in `make test`, all of them in `make torture`."""

from __future__ import annotations

import pytest

WHOLE = 20_000
CHUNK = 1_000
"""Tries of one test item, so that several processes share the whole."""


def seeds(sample: int, whole: int = WHOLE) -> pytest.MarkDecorator:
    """Give the test `seeds`: a range of `sample` numbers, or in `make torture` chunks that together are `whole`."""
    chunks = [
        pytest.param(range(start, min(start + CHUNK, whole)), marks=pytest.mark.torture, id=f"{start}-")
        for start in range(0, whole, CHUNK)
    ]
    return pytest.mark.parametrize("seeds", [pytest.param(range(sample), id="sample"), *chunks])
