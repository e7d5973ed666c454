"""Draws every image of a label store with its labels into a folder, shard by shard."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.execution import Execution, run_missing
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.errors import ImageError
from pipeline.files.writing import open_atomically
from pipeline.labels.drawing import Panel, category_colours, draw_panels
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels, Status
from pipeline.tables.shard_files import divide

IMAGES_PER_SHARD: Final = 16
_QUALITY: Final = 90


@dataclass(frozen=True)
class Picture:
    """A drawing. file: its path below the folder of drawings. jpeg: empty where the image cannot be drawn."""

    file: str
    jpeg: bytes = b""
    problem: str = ""


@dataclass(frozen=True)
class PictureWork:
    """Drawing of a store's labels, shard by shard (see `pipeline.compute.shards.ShardWork`)."""

    store: Path
    images: ImageFolder
    folder: Path

    @property
    def paths(self) -> WorkPaths:
        """Return the paths that every worker must see."""
        return WorkPaths((self.store, self.images.root), self.folder)

    def compute(self, shard: Shard) -> list[Picture]:
        """Return the drawings of a shard's images."""
        store = _open_store(self.store)
        return [self._drawn(store, store.by_id(image_id)) for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[Picture]) -> ShardReport:
        """Write the drawings."""
        for row in rows:
            if row.jpeg:
                with open_atomically(self.folder / row.file) as file:
                    file.write(row.jpeg)
        failures = {row.file: row.problem for row in rows if row.problem}
        return ShardReport(len(rows), {}, failures)

    def given_up(self, image_id: int, reason: str) -> Picture:
        """Return the row of an image that kills its workers."""
        return Picture(_files(self.store)[image_id], problem=reason)

    def _drawn(self, store: LabelStore, labels: ImageLabels) -> Picture:
        file = _files(self.store)[labels.image_id]
        if labels.status is Status.FAILED:
            return Picture(file)
        names = store.attributes.names
        try:
            image = self.images.read(labels.file_name, (labels.width, labels.height))
        except ImageError as error:
            return Picture(file, problem=str(error))
        drawing = draw_panels(image, [Panel(labels.file_name, labels)], names, category_colours(names))
        jpeg = io.BytesIO()
        Image.fromarray(drawing).save(jpeg, format="JPEG", quality=_QUALITY)
        return Picture(file, jpeg.getvalue())


def draw_store(store_path: Path, image_root: Path, folder: Path, execution: Execution) -> None:
    """Draw all images of a store; images whose drawing is in the folder are not drawn again."""
    store = LabelStore.open(store_path)
    plan = divide(store.image_ids.tolist(), IMAGES_PER_SHARD)
    files = _files(store_path)
    failed = {labels.image_id for labels in store.failed()}
    complete = frozenset(
        index
        for index, ids in enumerate(plan)
        if all(image_id in failed or (folder / files[image_id]).is_file() for image_id in ids)
    )
    images = ImageFolder.of(image_root, store.file_names())
    work = PictureWork(store_path.absolute(), images, folder.absolute())
    run_missing("draw", work, plan, complete, execution)


def picture_files(names: Sequence[str]) -> list[str]:
    """Return a file for the drawing of each image: its name ending in `.jpg`, added to it where two would be one."""
    short = [str(PurePosixPath(name).with_suffix(".jpg")) for name in names]
    taken = Counter(short)
    return [each if taken[each] == 1 else f"{name}.jpg" for each, name in zip(short, names, strict=True)]


@lru_cache(maxsize=2)
def _files(store_path: Path) -> Mapping[int, str]:
    """Return the file of each image's drawing by image id."""
    store = _open_store(store_path)
    return dict(zip(store.image_ids.tolist(), picture_files(store.file_names()), strict=True))


@lru_cache(maxsize=2)
def _open_store(path: Path) -> LabelStore:
    return LabelStore.open(path)
