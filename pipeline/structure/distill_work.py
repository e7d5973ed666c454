"""Structural targets of a shard of images: what a worker is given, and what it does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.compute.shards import Shard, ShardReport
from pipeline.errors import ImageError
from pipeline.files.images import read_image
from pipeline.labels.rows import Status
from pipeline.masks.run_lengths import CompressedRle
from pipeline.sam.worker import SamChoice, build_engine
from pipeline.structure.anchors import Anchors, sample_anchors
from pipeline.structure.maps import anchor_prompts, similarity_maps, truth_maps
from pipeline.structure.schema import MAP_SIDE, ImageTargets
from pipeline.structure.settings import DistillSettings
from pipeline.structure.shards import write_shard


@dataclass(frozen=True)
class DistillWork:
    """Structural targets of the labelled images, shard by shard (see `pipeline.compute.shards.ShardWork`)."""

    annotations: Path
    image_root: Path
    shards_folder: Path
    sam: SamChoice
    settings: DistillSettings

    def compute(self, shard: Shard) -> list[ImageTargets]:
        """Compute the targets of a shard's images."""
        dataset = _read_dataset(self.annotations)
        return [self._targets(dataset, dataset.image_by_id[image_id]) for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[ImageTargets]) -> ShardReport:
        """Write the shard."""
        write_shard(self.shards_folder, shard.index, rows)
        return ShardReport(len(rows), {}, {row.file_name: row.message for row in rows if row.status is Status.FAILED})

    def given_up(self, image_id: int, reason: str) -> ImageTargets:
        """The row of an image that kills its workers."""
        return self._failure(_read_dataset(self.annotations).image_by_id[image_id], reason)

    def _targets(self, dataset: CocoDataset, image: CocoImage) -> ImageTargets:
        # A crowd is no instance.
        instances = [dataset.rle(each) for each in dataset.annotations_by_image[image.id] if not each.iscrowd]
        image_hw = (image.height, image.width)
        anchors = sample_anchors(image.id, image_hw, instances, self.settings)
        if self.settings.source == "truth":
            maps = truth_maps(image_hw, anchors, instances, MAP_SIDE)
        else:
            try:
                maps = self._sam_maps(image, anchors, instances)
            except ImageError as error:
                return self._failure(image, str(error))
        return ImageTargets(image.id, image.file_name, image.width, image.height, Status.OK, "", anchors.xy, maps)

    def _sam_maps(self, image: CocoImage, anchors: Anchors, instances: Sequence[CompressedRle]) -> NDArray[np.uint8]:
        """One image is encoded at a time: next to its many prompts, that takes no time worth a batch."""
        path = resolve_image_path(self.image_root, image.file_name)
        engine = build_engine(self.sam)
        embeddings = engine.encode([read_image(path, (image.width, image.height))])
        boxes_xyxy = None
        if self.settings.prompt == "point-and-box":
            boxes_xywh = np.array([coco_mask.toBbox(rle) for rle in instances], dtype=np.float32).reshape(-1, 4)
            boxes_xyxy = np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
        return similarity_maps(engine, embeddings, 0, anchors.xy, anchor_prompts(anchors, boxes_xyxy), MAP_SIDE)

    def _failure(self, image: CocoImage, reason: str) -> ImageTargets:
        anchors = self.settings.anchors
        return ImageTargets(
            image.id,
            image.file_name,
            image.width,
            image.height,
            Status.FAILED,
            reason,
            np.full((anchors, 2), np.nan, dtype=np.float32),
            np.zeros((anchors, MAP_SIDE, MAP_SIDE), dtype=np.uint8),
        )


@lru_cache(maxsize=1)
def _read_dataset(path: Path) -> CocoDataset:
    return read_coco(path)
