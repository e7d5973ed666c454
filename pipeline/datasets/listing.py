"""A file that lists images to work on: a COCO file, or names alone, of images whose sizes are not known yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pipeline.coco.model import CocoImage
from pipeline.coco.reading import read_coco
from pipeline.files.writing import write_atomically


def write_names(path: Path, names: Sequence[str]) -> None:
    """Write a list of file names; their images get the ids 1, 2, 3 and so on."""
    write_atomically(path, json.dumps(names))  # in ASCII: names may be bytes that are not UTF-8


@lru_cache(maxsize=2)
def listed_images(path: Path) -> Mapping[int, CocoImage]:
    """Return the listed images by id. Those of a list of names have a width and a height of 0."""
    with path.open("rb") as file:
        is_names = file.read(1) == b"["
    if not is_names:
        return read_coco(path, annotations_required=False).image_by_id
    names = json.loads(path.read_bytes())
    return {number: CocoImage(number, name, 0, 0) for number, name in enumerate(names, start=1)}
