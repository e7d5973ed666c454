"""Refining a shard of images: what a worker is given, and what it does with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pipeline.coco.paths import resolve_image_path
from pipeline.compute import Shard, ShardReport
from pipeline.errors import ImageError
from pipeline.experiment.schema import RefineSettings
from pipeline.images import read_image
from pipeline.labels.rows import ImageLabels, Status
from pipeline.labels.shards import write_shard
from pipeline.labels.store import LabelStore
from pipeline.refinement.gate import Gate
from pipeline.refinement.image import RefineInput, refine_images
from pipeline.sam.engine import SamEngine
from pipeline.sam.worker import SamChoice, build_engine

IMAGES_PER_SHARD = 32
READERS = 2


@dataclass(frozen=True)
class RefineWork:
    """Refinement of the teacher's labels, shard by shard (see `pipeline.compute.ShardWork`)."""

    teacher_store: Path
    image_root: Path
    shards_folder: Path
    sam: SamChoice
    settings: RefineSettings
    gate: Gate

    def compute(self, shard: Shard) -> list[ImageLabels]:
        """The refined labels of a shard's images. Images are read while others are refined."""
        store = _open_store(self.teacher_store)
        engine = build_engine(self.sam)
        teacher = [store.by_id(image_id) for image_id in shard.image_ids]
        rows: dict[int, ImageLabels] = {}
        for batch in self._read(teacher):
            rows |= self._refined(batch, engine)
        return [rows[image_id] for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> ShardReport:
        """Write the shard."""
        write_shard(self.shards_folder, shard.index, rows)
        decisions = Counter(str(instance.decision) for row in rows for instance in row.instances)
        failures = {row.file_name: row.message for row in rows if row.status is Status.FAILED}
        return ShardReport(len(rows), dict(decisions), failures)

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        """The row of an image that kills its workers."""
        labels = _open_store(self.teacher_store).by_id(image_id)
        return ImageLabels.of_failure(image_id, labels.file_name, reason, labels.width, labels.height)

    def _read(self, teacher: Sequence[ImageLabels]) -> Iterator[list[RefineInput | ImageLabels]]:
        """Images with their labels, a batch at a time, the next batch being read meanwhile; or rows as they stay."""
        size = self.sam.batch_images
        batches = [teacher[first : first + size] for first in range(0, len(teacher), size)]
        with ThreadPoolExecutor(READERS) as readers:
            ahead: list[Future[RefineInput | ImageLabels]] = []
            for number in range(len(batches) + 1):
                ready, ahead = ahead, []
                if number < len(batches):
                    ahead = [readers.submit(self._input, labels) for labels in batches[number]]
                if ready:
                    yield [future.result() for future in ready]

    def _input(self, labels: ImageLabels) -> RefineInput | ImageLabels:
        """An image with its labels; the row it will have where there is nothing to refine or it cannot be read."""
        if labels.status is not Status.OK:
            return labels
        try:
            path = resolve_image_path(self.image_root, labels.file_name)
            return RefineInput(read_image(path, (labels.width, labels.height)), labels)
        except ImageError as error:
            return _failure(labels, error)

    def _refined(self, batch: Sequence[RefineInput | ImageLabels], engine: SamEngine) -> dict[int, ImageLabels]:
        rows = {row.image_id: row for row in batch if isinstance(row, ImageLabels)}
        inputs = [each for each in batch if isinstance(each, RefineInput)]
        try:
            refined = refine_images(inputs, engine, self.settings, self.gate) if inputs else []
        except ImageError as error:
            if len(batch) == 1:
                return {inputs[0].labels.image_id: _failure(inputs[0].labels, error)}
            return {key: row for each in batch for key, row in self._refined([each], engine).items()}
        for each, instances in zip(inputs, refined, strict=True):
            rows[each.labels.image_id] = replace(each.labels, instances=tuple(one.label for one in instances))
        return rows


def _failure(labels: ImageLabels, error: ImageError) -> ImageLabels:
    return ImageLabels.of_failure(labels.image_id, labels.file_name, str(error), labels.width, labels.height)


@lru_cache(maxsize=2)
def _open_store(path: Path) -> LabelStore:
    return LabelStore.open(path)
