"""What the generator and the converters of datasets share: processes, instances, ranges of settings."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, TypeVar

import cv2

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoImage
from pipeline.coco.segmentation import encode_segmentation
from pipeline.coco.writing import write_coco
from pipeline.errors import Problem
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xywh

Progress = Callable[[int, int], None]
"""Called with images done so far and images in all."""

_IMAGES_A_TASK: Final = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Instance:
    """An instance or, with `is_crowd`, a group that the annotators did not separate."""

    category_id: int
    rle: CompressedRle
    is_crowd: bool = False


@dataclass(frozen=True)
class ConvertedFile:
    """A COCO file that was written; crowds are not counted as instances."""

    path: Path
    images: int
    instances: int
    crowds: int


def map_images(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: Progress | None
) -> list[Result]:
    """Return what `work` makes of each image, in their order, in this process or in several."""
    results: list[Result] = []
    with closing(_results(work, items, workers)) as arriving:  # no worker writes anything after an error
        for result in arriving:
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results


def _results(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Generator[Result]:
    if workers == 1:
        yield from map(work, items)
        return
    # Fresh processes: a fork of a program that runs threads may hang. One thread each: they share the cores.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(work, items, chunksize=_IMAGES_A_TASK)


def annotation_of(annotation_id: int, image_id: int, instance: Instance) -> CocoAnnotation:
    """Return the annotation of an instance, with the box and the area of its mask."""
    return CocoAnnotation(
        id=annotation_id,
        image_id=image_id,
        category_id=instance.category_id,
        bbox=box_xywh(instance.rle),
        area=float(area_px(instance.rle)),
        iscrowd=int(instance.is_crowd),
        segmentation=encode_segmentation(instance.rle),
    )


def write_converted(
    path: Path, content: Sequence[tuple[CocoImage, Sequence[Instance]]], categories: Iterable[CocoCategory]
) -> ConvertedFile:
    """Write images and their instances as a COCO file. Annotation ids count from 1, in the order given."""
    owned = [(image.id, instance) for image, instances in content for instance in instances]
    annotations = [annotation_of(index, *each) for index, each in enumerate(owned, start=1)]
    write_coco(path, [image for image, _ in content], categories, annotations)
    crowds = sum(each.iscrowd for each in annotations)
    return ConvertedFile(path, len(content), len(annotations) - crowds, crowds)


def out_of_range(name: str, value: int, low: int, high: int | None = None) -> list[Problem]:
    """Return the problem of a setting that is not from `low` to `high`, both included; nothing where it is."""
    if low <= value and (high is None or value <= high):
        return []
    allowed = f"{low} or more" if high is None else f"{low} to {high}"
    return [Problem(name, f"must be {allowed}, is {value}")]
