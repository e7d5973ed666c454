"""Reading ahead: order, batches, and one batch in advance."""

from __future__ import annotations

import threading

import pytest

from pipeline.compute.ahead import read_ahead


@pytest.mark.parametrize(("items", "size"), [(0, 3), (1, 3), (3, 3), (4, 3), (7, 1)])
def test_batches_come_in_order(items, size):
    batches = list(read_ahead(range(items), size, str))
    assert [item for batch in batches for item in batch] == [str(item) for item in range(items)]
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


def test_the_next_batch_is_read_while_one_is_worked_on_and_no_further():
    read, third = [], threading.Event()

    def note(item):
        read.append(item)
        if item == 3:
            third.set()
        return item

    batches = read_ahead(range(100), 2, note)
    next(batches)
    assert third.wait(10)
    assert sorted(read) == [0, 1, 2, 3]


def test_an_error_of_reading_reaches_whoever_works():
    with pytest.raises(ZeroDivisionError):
        list(read_ahead([1, 0], 1, lambda item: 1 / item))
