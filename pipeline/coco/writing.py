"""Writes COCO instance files: the same content gives the same bytes, and a reader never sees half a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoImage
from pipeline.files.writing import open_atomically


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):  # numpy's float is a Python float to a type checker, not to msgspec
        return value.item()
    raise TypeError(f"{type(value).__name__} in a COCO file")


_encoder = msgspec.json.Encoder(enc_hook=_plain_number)


def write_coco(
    path: Path,
    images: Iterable[CocoImage],
    categories: Iterable[CocoCategory],
    annotations: Iterable[CocoAnnotation] | None,
) -> None:
    """Write a COCO file in the order given, one element a line; with None it has no key `annotations` at all.

    Segmentations are written as they were read, byte for byte.
    """
    with open_atomically(path) as file:
        file.writelines(_lines(images, categories, annotations))


def _lines(
    images: Iterable[CocoImage],
    categories: Iterable[CocoCategory],
    annotations: Iterable[CocoAnnotation] | None,
) -> Iterator[bytes]:
    lists: list[tuple[bytes, Iterable[msgspec.Struct]]] = [(b"images", images), (b"categories", categories)]
    if annotations is not None:
        lists.append((b"annotations", annotations))
    yield b"{"
    for index, (key, elements) in enumerate(lists):
        yield b"%s\n" % (b"," if index else b"")
        yield b'"%s":[' % key
        separator = b"\n"
        for element in elements:
            yield separator
            yield _encoder.encode(element)
            separator = b",\n"
        yield b"]"
    yield b"\n}\n"
