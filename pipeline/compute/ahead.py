"""Read the next batch while the current one is processed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")

READERS = 2


def read_ahead(items: Sequence[Item], batch_size: int, read: Callable[[Item], Read]) -> Iterator[list[Read]]:
    """Yield what `read` returns for the items, in order, in batches; the next batch is read meanwhile."""
    batches = [items[first : first + batch_size] for first in range(0, len(items), batch_size)]
    with ThreadPoolExecutor(READERS) as readers:
        ahead = [readers.submit(read, item) for item in batches[0]] if batches else []
        for following in (*batches[1:], ()):
            ready, ahead = ahead, [readers.submit(read, item) for item in following]
            if ready:
                yield [future.result() for future in ready]
