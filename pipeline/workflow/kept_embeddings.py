"""SAM's embeddings of the images of a label store, kept in the shared store for later refinements."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.compute.execution import Execution, run_missing
from pipeline.embeddings.embed_work import EmbedWork
from pipeline.embeddings.embedding_columns import (
    EMBEDDING_FORMAT,
    EmbeddingAttributes,
    Shape,
    embedded_images_per_shard,
    embedding_bytes,
)
from pipeline.embeddings.embedding_writing import ARRAYS, embeddings_in, prepare_embeddings
from pipeline.files.identity import IdentityCache, ImageList, hash_text
from pipeline.labels.label_store import LabelStore
from pipeline.presentation import words
from pipeline.sam.build import embedding_shape
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import EMBEDDINGS, StoreRoot
from pipeline.workflow.waiting import held


@dataclass(frozen=True)
class EmbeddingSource:
    """What embeddings are made from. weights: the content digest of SAM's weights."""

    labels: LabelStore
    image_root: Path
    sam: SamSettings
    weights: str

    @property
    def shape(self) -> Shape:
        """Return the shape of one image's embedding."""
        return embedding_shape(self.sam.model, self.sam.input_side)


def images_digest(labels: LabelStore, image_root: Path, identities: IdentityCache) -> str:
    """Return a digest of ids, names and contents of the images of a label store, whatever their order."""
    lines = [f"{key}\t{name}" for key, name in zip(labels.image_ids.tolist(), labels.file_names(), strict=True)]
    return identities.images(image_root, ImageList(hash_text("\n".join(lines)), lambda: lines))


def embeddings_fingerprint(source: EmbeddingSource, images: str) -> Fingerprint:
    """Return what embeddings are named by. images: their digest. The shape tells the side of SAM's input."""
    return Fingerprint(
        stage=EMBEDDINGS,
        version=EMBEDDING_FORMAT.version,
        settings={"sam.model": source.sam.model, "shape": list(source.shape)},
        inputs={"images": images, "sam.checkpoint": source.weights},
        upstream={},
    )


def kept_embeddings(
    source: EmbeddingSource, identities: IdentityCache, store: StoreRoot, experiment: str, execution: Execution
) -> tuple[Path, int]:
    """Return the sealed embeddings of the images, made first if they are missing, and how many were encoded now.

    experiment: the name that the completion record gives. Waits for another process that makes the same.
    """
    fingerprint = embeddings_fingerprint(source, images_digest(source.labels, source.image_root, identities))
    encoded = 0
    if not store.is_sealed(fingerprint.stage, fingerprint.id):
        with held(store, fingerprint, "embeddings", experiment, execution.say) as mine:
            if mine:
                encoded = _make(source, fingerprint, store, experiment, execution)
    return store.path(fingerprint.stage, fingerprint.id) / ARRAYS, encoded


def _make(
    source: EmbeddingSource, fingerprint: Fingerprint, store: StoreRoot, experiment: str, execution: Execution
) -> int:
    """Make what is missing and seal it; return how many images were encoded."""
    folder = store.partial(fingerprint.stage, fingerprint.id)
    images, size_bytes = len(source.labels), embedding_bytes(source.shape)
    execution.say(
        f"embeddings: {words.size(size_bytes)} per image x {images:,} images = {words.size(size_bytes * images)} "
        f"at most, in {store.path(fingerprint.stage, fingerprint.id)}"
    )
    begun = time.monotonic()
    made, encoded = embeddings_in(folder, source.shape).sealed(), 0
    if made is None:
        made, encoded = _fill(source, folder, fingerprint, execution)
    summary = {"images": made.images, "encoded": made.encoded}
    store.seal(fingerprint, experiment, time.monotonic() - begun, summary, {})
    return encoded


def _fill(
    source: EmbeddingSource, folder: Path, fingerprint: Fingerprint, execution: Execution
) -> tuple[EmbeddingAttributes, int]:
    """Make the shards that are missing; return also how many images were encoded."""
    shape, labels = source.shape, source.labels
    per_shard = embedded_images_per_shard(shape, len(labels))
    # By id, as the fingerprint knows no order: labels in another order go on with the same shards.
    plan = divide(sorted(labels.image_ids.tolist()), per_shard)
    complete = prepare_embeddings(folder, plan, shape)
    work = EmbedWork(
        labels=labels.path.absolute(),
        image_root=source.image_root.absolute(),
        folder=folder.absolute(),
        sam=SamChoice.of(source.sam, execution.compute),
        shape=shape,
        images_per_shard=per_shard,
    )
    counts = run_missing("embeddings", work, plan, complete, execution)
    made = embeddings_in(folder, shape).seal(plan, {}, {"fingerprint": fingerprint.to_dict()})
    return made, counts[ENCODED_IMAGES]
