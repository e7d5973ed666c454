"""Read the next batch of images while the current one is processed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from pipeline.files.images import MAX_IMAGE_PIXELS


class Sized(Protocol):
    """An image to read, with its size in pixels."""

    @property
    def width(self) -> int:
        """Return the width in pixels."""

    @property
    def height(self) -> int:
        """Return the height in pixels."""


Image = TypeVar("Image", bound=Sized)
Read = TypeVar("Read")

READERS = 2


def read_ahead(images: Sequence[Image], batch_size: int, read: Callable[[Image], Read]) -> Iterator[list[Read]]:
    """Yield what `read` returns for the images, in order, in batches; the next batch is read meanwhile.

    A batch has at most `batch_size` images, and not more pixels than one image may have: so two images of the largest
    size are decoded at once, not two batches of them.
    """
    batches = list(_batches(images, batch_size))
    with ThreadPoolExecutor(READERS) as readers:
        ahead = [readers.submit(read, image) for image in batches[0]] if batches else []
        for following in (*batches[1:], ()):
            ready, ahead = ahead, [readers.submit(read, image) for image in following]
            if ready:
                yield [future.result() for future in ready]


def _batches(images: Sequence[Image], batch_size: int) -> Iterator[list[Image]]:
    batch: list[Image] = []
    pixels = 0
    for image in images:
        more = image.width * image.height
        if batch and (len(batch) == batch_size or pixels + more > MAX_IMAGE_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(image)
        pixels += more
    if batch:
        yield batch
