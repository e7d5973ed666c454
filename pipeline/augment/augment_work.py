"""The work of making a shard of composites: images and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.augment.pairs import Pair
from pipeline.augment.sources import CompositeSources, ReadImage
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.errors import ImageError
from pipeline.files.disk import explained_if_full
from pipeline.files.writing import open_atomically
from pipeline.labels.label_columns import STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_shard
from pipeline.labels.rows import ImageLabels, Status

COMPOSITES_PER_SHARD = 32
IMAGES = "images"

# Run-length matching: a third of the time of zlib's default, and files of photographs are hardly larger.
_PNG = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]


@dataclass(frozen=True)
class AugmentWork:
    """Composites, shard by shard (see `pipeline.compute.shards.ShardWork`); the ids of a shard are composite ids.

    folder: the folder that file names are relative to.
    """

    sources: CompositeSources
    folder: Path
    shards_folder: Path

    def compute(self, shard: Shard) -> list[ImageLabels]:
        """Write the images of a shard; return their labels."""
        sources = _kept(self.sources)
        read = sources.reader()
        return [self._made(sources, sources.by_id[image_id], read) for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> ShardReport:
        """Write the labels, which completes the shard: its images are written before."""
        write_label_shard(self.shards_folder, shard.index, rows)
        decisions = Counter(str(instance.decision) for row in rows for instance in row.instances)
        failures = {row.file_name: row.message for row in rows if row.status is Status.FAILED}
        return ShardReport(len(rows), dict(decisions), failures)

    @property
    def paths(self) -> WorkPaths:
        """Return the paths that every worker must see."""
        return WorkPaths(self.sources.paths, self.folder)

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        """Return the row of a composite that kills its workers."""
        sources = _kept(self.sources)
        return _failure(sources, sources.by_id[image_id], reason)

    def _made(self, sources: CompositeSources, pair: Pair, read: ReadImage) -> ImageLabels:
        try:
            made = sources.compose(pair, read)
        except ImageError as error:
            return _failure(sources, pair, str(error))
        file_name = _file_name(pair)
        write_png(self.folder / file_name, made.image_rgb)
        return replace(made.labels, file_name=file_name)


def remove_unnamed_images(folder: Path, store: LabelStore) -> None:
    """Remove the images without labels, which interrupted runs left."""
    failed = (store.column("images/status") == STATUSES.index(Status.FAILED)).tolist()
    named = {name for name, has_failed in zip(store.file_names(), failed, strict=True) if not has_failed}
    for path in (folder / IMAGES).glob("*/*"):
        if path.relative_to(folder).as_posix() not in named:
            path.unlink()


def _file_name(pair: Pair) -> str:
    """Return the file name of a composite: one folder per shard, so that no folder has too many files."""
    return f"{IMAGES}/{pair.index // COMPOSITES_PER_SHARD:06d}/{pair.composite_id}.png"


def _failure(sources: CompositeSources, pair: Pair, reason: str) -> ImageLabels:
    base = sources.refined_store.by_id(pair.base_id)
    return ImageLabels.of_failure(pair.composite_id, _file_name(pair), reason, base.width, base.height)


def write_png(path: Path, image_rgb: NDArray[np.uint8]) -> None:
    """Write an image, uint8 (height, width, 3), whole or not at all."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), _PNG)
    with explained_if_full(path, encoded.nbytes), open_atomically(path) as file:
        file.write(encoded.data)


@lru_cache(maxsize=1)
def _kept(sources: CompositeSources) -> CompositeSources:
    """Return the first equal sources that this worker process was given, with open stores and drawn pairs."""
    return sources
