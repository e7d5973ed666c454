"""What the generator and the converters of datasets have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, TypeVar

from pipeline.coco.model import CocoAnnotation
from pipeline.coco.segmentation import encode_segmentation
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xywh

Progress = Callable[[int, int], None]
"""Called with pictures read so far and pictures to read."""

_PICTURES_A_TASK: Final = 8

Picture = TypeVar("Picture")
Read = TypeVar("Read")


def read_pictures(
    read: Callable[[Picture], Read], pictures: Sequence[Picture], workers: int, progress: Progress | None
) -> list[Read]:
    """Read pictures in their order, in this process or in several."""
    results: list[Read] = []
    for result in _results(read, pictures, workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(pictures))
    return results


def annotation_of(
    annotation_id: int, image_id: int, category_id: int, rle: CompressedRle, *, is_crowd: bool = False
) -> CocoAnnotation:
    """An instance with the box and the area of its mask."""
    return CocoAnnotation(
        id=annotation_id,
        image_id=image_id,
        category_id=category_id,
        bbox=box_xywh(rle),
        area=float(area_px(rle)),
        iscrowd=int(is_crowd),
        segmentation=encode_segmentation(rle),
    )


def _results(read: Callable[[Picture], Read], pictures: Sequence[Picture], workers: int) -> Iterator[Read]:
    if workers == 1:
        yield from map(read, pictures)
        return
    # Fresh processes: a fork of a program that runs threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(read, pictures, chunksize=_PICTURES_A_TASK)
