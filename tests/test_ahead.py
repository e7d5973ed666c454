"""Reading ahead: order, batches, one batch in advance, and no more pixels at once than one image may have."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from pipeline.compute.ahead import read_ahead
from pipeline.files.images import MAX_IMAGE_PIXELS


@dataclass(frozen=True)
class Item:
    number: int
    width: int = 1
    height: int = 1


def items(count):
    return [Item(number) for number in range(count)]


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (3, 3), (4, 3), (7, 1)])
def test_batches_come_in_order(count, size):
    batches = list(read_ahead(items(count), size, lambda item: str(item.number)))
    assert [item for batch in batches for item in batch] == [str(item) for item in range(count)]
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


def test_the_next_batch_is_read_while_one_is_worked_on_and_no_further():
    read, third = [], threading.Event()

    def note(item):
        read.append(item.number)
        if item.number == 3:
            third.set()
        return item

    batches = read_ahead(items(100), 2, note)
    next(batches)
    assert third.wait(10)
    assert sorted(read) == [0, 1, 2, 3]


def test_an_error_of_reading_reaches_whoever_works():
    with pytest.raises(ZeroDivisionError):
        list(read_ahead([Item(1), Item(0)], 1, lambda item: 1 / item.number))


def test_large_images_are_batches_of_their_own():
    large = [Item(number, MAX_IMAGE_PIXELS, 1) for number in range(3)]
    half = [Item(number, MAX_IMAGE_PIXELS // 2, 1) for number in range(3, 7)]
    mixed = [*large, *half[:2], Item(7), Item(8)]  # two halves fill a batch: the limit is an even number
    assert list(read_ahead(mixed, 8, lambda item: item.number)) == [[0], [1], [2], [3, 4], [7, 8]]
    assert list(read_ahead(large, 8, lambda item: item.number)) == [[0], [1], [2]]
    assert list(read_ahead(half, 8, lambda item: item.number)) == [[3, 4], [5, 6]]
    # What is decoded at once: the batch that is worked on, and the next one.
    decoded = []
    batches = read_ahead(large * 3, 8, lambda item: decoded.append(item))
    next(batches)
    assert len(decoded) <= 2
