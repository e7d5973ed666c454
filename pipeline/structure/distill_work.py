"""Structural targets of a shard of images: what a worker is given, and what it does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.reading import read_coco
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.errors import ImageError
from pipeline.labels.rows import Status
from pipeline.masks.run_lengths import CompressedRle
from pipeline.masks.windows import Window
from pipeline.sam.worker import SamChoice, build_engine
from pipeline.structure.anchors import Anchors, sample_anchors
from pipeline.structure.maps import anchor_prompts, boxes_in_tile, similarity_maps, truth_maps
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_columns import MAP_SIDE, ImageTargets
from pipeline.structure.target_writing import write_target_shard
from pipeline.structure.tiles import nearest_tiles, tiles_of


@dataclass(frozen=True)
class DistillWork:
    """Structural targets of the labelled images, shard by shard (see `pipeline.compute.shards.ShardWork`)."""

    annotations: Path
    images: ImageFolder
    shards_folder: Path
    sam: SamChoice
    settings: DistillSettings

    def compute(self, shard: Shard) -> list[ImageTargets]:
        """Compute the targets of a shard's images."""
        dataset = _read_dataset(self.annotations)
        return [self._targets(dataset, dataset.image_by_id[image_id]) for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[ImageTargets]) -> ShardReport:
        """Write the shard."""
        write_target_shard(self.shards_folder, shard.index, rows)
        return ShardReport(len(rows), {}, {row.file_name: row.message for row in rows if row.status is Status.FAILED})

    @property
    def paths(self) -> WorkPaths:
        """Return the paths that every worker must see."""
        return WorkPaths((self.annotations, self.images.root, *self.sam.files), self.shards_folder)

    def given_up(self, image_id: int, reason: str) -> ImageTargets:
        """Return the row of an image that kills its workers."""
        return self._failure(_read_dataset(self.annotations).image_by_id[image_id], reason)

    def _targets(self, dataset: CocoDataset, image: CocoImage) -> ImageTargets:
        instances = [dataset.rle(each) for each in dataset.instances(image.id)]
        image_hw = (image.height, image.width)
        anchors = sample_anchors(image.id, image_hw, instances, self.settings)
        tiles = tiles_of(image_hw, self.settings.cell_px, MAP_SIDE)
        tile_of = nearest_tiles(anchors.xy, tiles)
        windows_xyxy = np.array([astuple(tile) for tile in tiles], dtype=np.int32)[tile_of]
        maps = np.empty((len(anchors), MAP_SIDE, MAP_SIDE), dtype=np.uint8)
        try:
            image_rgb = self.images.read(image.file_name, (image.width, image.height))
        except ImageError as error:
            return self._failure(image, str(error))
        for number, tile in enumerate(tiles):
            members = np.flatnonzero(tile_of == number)
            if len(members):
                maps[members] = self._maps(image_rgb, tile, anchors.within(members, tile), instances)
        return ImageTargets(
            image.id, image.file_name, image.width, image.height, Status.OK, "", anchors.xy, windows_xyxy, maps
        )

    def _maps(
        self, image_rgb: NDArray[np.uint8], tile: Window, anchors: Anchors, instances: Sequence[CompressedRle]
    ) -> NDArray[np.uint8]:
        """Return the maps (A, side, side) of a tile's anchors, which are in pixels of the tile.

        One tile is encoded at a time: next to its many prompts, that takes no time worth a batch.
        """
        if self.settings.source == "truth":
            return truth_maps(tile, anchors, instances, MAP_SIDE)
        boxes_xyxy = boxes_in_tile(instances, tile) if self.settings.prompt == "point-and-box" else None
        engine = build_engine(self.sam)
        embeddings = engine.encode([image_rgb[tile.in_image]])
        return similarity_maps(engine, embeddings, 0, anchors.xy, anchor_prompts(anchors, boxes_xyxy), MAP_SIDE)

    def _failure(self, image: CocoImage, reason: str) -> ImageTargets:
        return ImageTargets.of_failure(image.id, image.file_name, image.width, image.height, reason)


@lru_cache(maxsize=1)
def _read_dataset(path: Path) -> CocoDataset:
    return read_coco(path)
