"""Write COCO instance files: the same content gives the same bytes, and a reader never sees half a file."""

from __future__ import annotations

from collections.abc import Iterable
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
    lists: list[tuple[bytes, Iterable[msgspec.Struct]]] = [(b"images", images), (b"categories", categories)]
    if annotations is not None:
        lists.append((b"annotations", annotations))
    with open_atomically(path) as file:
        before_list = b"{"
        for key, elements in lists:
            file.write(b'%s\n"%s":[' % (before_list, key))
            before = b"\n"
            for element in elements:
                file.writelines((before, _encoder.encode(element)))
                before = b",\n"
            before_list = b"],"
        file.write(b"]\n}\n")
