"""The work on one shard of images to embed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.ahead import read_ahead
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.embeddings.embedding_columns import ImageRow, Shape
from pipeline.embeddings.embedding_store import write_embeddings
from pipeline.errors import ImageError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.worker import SamChoice, build_engine


@dataclass(frozen=True)
class EmbedWork:
    """Embeddings of the images of a label store, shard by shard (see `pipeline.compute.shards.ShardWork`).

    Images without labels are encoded too: another teacher may label them. An image that cannot be read gets no
    features; refining reads it again and records the reason.
    """

    labels: Path
    images: ImageFolder
    folder: Path
    sam: SamChoice
    shape: Shape
    images_per_shard: int

    def compute(self, shard: Shard) -> list[ImageRow]:
        """Embed the images of a shard. Images are read while others are encoded."""
        store = _open_store(self.labels)
        rows = []
        for batch in read_ahead([store.by_id(each) for each in shard.image_ids], self.sam.batch_images, self._read):
            pixels = [image_rgb for _, image_rgb in batch if image_rgb is not None]
            features = iter(build_engine(self.sam).encode(pixels).to_numpy() if pixels else ())
            rows += [_row(labels, None if image_rgb is None else next(features)) for labels, image_rgb in batch]
        return rows

    def publish(self, shard: Shard, rows: Sequence[ImageRow]) -> ShardReport:
        """Write the shard."""
        write_embeddings(self.folder, shard.index, shard.index * self.images_per_shard, rows, self.shape)
        encoded = sum(row.features is not None for row in rows)
        counts = {ENCODED_IMAGES: encoded, "left out": len(rows) - encoded}
        return ShardReport(len(rows), {name: count for name, count in counts.items() if count}, {})

    @property
    def paths(self) -> WorkPaths:
        """Return the paths that every worker must see."""
        return WorkPaths((self.labels, self.images.root, *self.sam.files), self.folder)

    def given_up(self, image_id: int, reason: str) -> ImageRow:
        """Return the row of an image that kills its workers, without features; refining reports the image."""
        return _row(_open_store(self.labels).by_id(image_id), None)

    def _read(self, labels: ImageLabels) -> tuple[ImageLabels, NDArray[np.uint8] | None]:
        try:
            return labels, self.images.read(labels.file_name, (labels.width, labels.height))
        except ImageError:
            return labels, None


def _row(labels: ImageLabels, features: NDArray[np.float16] | None) -> ImageRow:
    # SAM's features fit into half precision; if one overflows, the image is left out.
    usable = features if features is not None and np.isfinite(features).all() else None
    return ImageRow(labels.image_id, labels.width, labels.height, usable)


@lru_cache(maxsize=2)
def _open_store(path: Path) -> LabelStore:
    return LabelStore.open(path)
