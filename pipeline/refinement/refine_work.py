"""The work on one shard of images to refine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.ahead import read_ahead
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.embeddings.embedding_store import EmbeddingStore
from pipeline.errors import ImageError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_shard
from pipeline.labels.rows import ImageLabels, Status
from pipeline.refinement.gate import Gate
from pipeline.refinement.image import RefinedImage, RefineInput, refine_images
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.interface import Engine
from pipeline.sam.worker import SamChoice, build_engine


@dataclass(frozen=True)
class RefineWork:
    """Refinement of the teacher's labels, shard by shard (see `pipeline.compute.shards.ShardWork`).

    embeddings: a sealed store of SAM's embeddings of whole images, used instead of its encoder.
    note_uncertain: note the pixels about which masks disagree.
    """

    teacher_store: Path
    images: ImageFolder
    shards_folder: Path
    sam: SamChoice
    settings: RefineSettings
    gate: Gate
    embeddings: Path | None = None
    note_uncertain: bool = False

    def compute(self, shard: Shard) -> list[RefinedImage]:
        """Refine the images of a shard. Images are read while others are refined."""
        store = _open_store(self.teacher_store)
        engine = build_engine(self.sam)
        teacher = [store.by_id(image_id) for image_id in shard.image_ids]
        rows: dict[int, RefinedImage] = {}
        for batch in read_ahead(teacher, self.sam.batch_images, self._input):
            rows |= self._refined(batch, engine)
        return [rows[image_id] for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[RefinedImage]) -> ShardReport:
        """Write the shard."""
        refined = [row.labels for row in rows]
        write_label_shard(self.shards_folder, shard.index, refined)
        counts = Counter(str(instance.decision) for labels in refined for instance in labels.instances)
        counts[ENCODED_IMAGES] = sum(row.encoded_views for row in rows)
        failures = {labels.file_name: labels.message for labels in refined if labels.status is Status.FAILED}
        return ShardReport(len(rows), dict(counts), failures)

    @property
    def paths(self) -> WorkPaths:
        """Return the paths that every worker must see."""
        return WorkPaths(
            (self.teacher_store, self.images.root, *self.sam.files, *filter(None, [self.embeddings])),
            self.shards_folder,
        )

    def given_up(self, image_id: int, reason: str) -> RefinedImage:
        """Return the row of an image that kills its workers."""
        return RefinedImage(_failure(_open_store(self.teacher_store).by_id(image_id), reason))

    def _input(self, labels: ImageLabels) -> RefineInput | ImageLabels:
        """Read an image with its labels; return its final row if it cannot be read or has nothing to refine."""
        if labels.status is not Status.OK:
            return labels
        encoded = None
        if self.embeddings is not None:
            encoded = _open_embeddings(self.embeddings).encoded_image(labels.image_id, (labels.height, labels.width))
            if encoded is not None and not self.settings.zoom_below_px:
                return RefineInput(None, labels, encoded)
        try:
            return RefineInput(self.images.read(labels.file_name, (labels.width, labels.height)), labels, encoded)
        except ImageError as error:
            return _failure(labels, str(error))

    def _refined(self, batch: Sequence[RefineInput | ImageLabels], engine: Engine) -> dict[int, RefinedImage]:
        rows = {labels.image_id: RefinedImage(labels) for labels in batch if isinstance(labels, ImageLabels)}
        inputs = [each for each in batch if isinstance(each, RefineInput)]
        try:
            refined = (
                refine_images(inputs, engine, self.settings, self.gate, note_uncertain=self.note_uncertain)
                if inputs
                else []
            )
        except ImageError as error:
            if len(batch) == 1:
                return {inputs[0].labels.image_id: RefinedImage(_failure(inputs[0].labels, str(error)))}
            return {key: row for each in batch for key, row in self._refined([each], engine).items()}
        return rows | {image.labels.image_id: image for image in refined}


def _failure(labels: ImageLabels, reason: str) -> ImageLabels:
    return ImageLabels.of_failure(labels.image_id, labels.file_name, reason, labels.width, labels.height)


@lru_cache(maxsize=2)
def _open_store(path: Path) -> LabelStore:
    return LabelStore.open(path)


@lru_cache(maxsize=2)
def _open_embeddings(path: Path) -> EmbeddingStore:
    return EmbeddingStore.open(path)
