"""Measures how well structural targets tell instances apart, by the labels that they were made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.labels.rows import Status
from pipeline.masks.windows import Window
from pipeline.sam.worker import build_engine
from pipeline.structure.anchors import sample_anchors
from pipeline.structure.distill_work import DistillWork
from pipeline.structure.maps import embedding_maps, truth_maps
from pipeline.structure.separation import Separation, pooled, separation
from pipeline.structure.target_columns import MAP_SIDE, ImageTargets
from pipeline.structure.target_store import StructureStore

MEASURED_IMAGES: Final = 16
"""Most images that are measured: SAM encodes each of them again."""

Measured = tuple[Separation | None, Separation | None]
"""Of the targets, and of the image embedding without a prompt (None for targets that are not SAM's)."""


def measure_targets(work: DistillWork, store: StructureStore, done: Callable[[int, int], None]) -> Measured:
    """Measure the targets of some images, and SAM's embeddings of the same images beside them.

    done: called with the number of measured images, 0 at first, and of all to measure.
    """
    dataset = read_coco(work.annotations)
    chosen = measured_positions(len(store))
    parts: list[Measured] = []
    for number, index in enumerate(chosen):
        done(number, len(chosen))
        targets = store[index]
        if targets.status is Status.OK:
            parts += _of_image(work, dataset, targets)
    done(len(chosen), len(chosen))
    return pooled(targets for targets, _ in parts), pooled(embedding for _, embedding in parts)


def measured_positions(images: int) -> list[int]:
    """Return the positions of the images to measure: all, or the middle ones of as many equal parts of them."""
    measured = min(images, MEASURED_IMAGES)
    return [(2 * part + 1) * images // (2 * measured) for part in range(measured)]


def _of_image(work: DistillWork, dataset: CocoDataset, targets: ImageTargets) -> Iterator[Measured]:
    """Yield the measures of each tile of an image that has anchors in instances."""
    instances = [dataset.rle(each) for each in dataset.instances(targets.image_id)]
    anchors = sample_anchors(targets.image_id, (targets.height, targets.width), instances, work.settings)
    windows, tile_of = np.unique(targets.windows_xyxy, axis=0, return_inverse=True)
    image_rgb = work.images.read(targets.file_name, (targets.width, targets.height))
    for number, window_xyxy in enumerate(windows.tolist()):
        members = np.flatnonzero((tile_of.ravel() == number) & (anchors.instance >= 0))
        if not len(members):
            continue
        tile = Window(*window_xyxy)
        own = anchors.within(members, tile)
        truth = truth_maps(tile, own, instances, MAP_SIDE)
        embedding = None
        if work.settings.source == "sam":
            engine = build_engine(work.sam)
            encoded = engine.encode([image_rgb[tile.in_image]])
            embedding = separation(embedding_maps(engine, encoded, 0, own.xy, MAP_SIDE), truth)
        yield separation(targets.maps[members], truth), embedding
