"""SAM's embeddings of the images of a label store, kept in the shared store for later refinements."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.execution import Execution, run_missing
from pipeline.embeddings.embed_work import EmbedWork
from pipeline.embeddings.embedding_columns import (
    EMBEDDING_FORMAT,
    Shape,
    embedded_images_per_shard,
    embedding_bytes,
)
from pipeline.embeddings.embedding_store import ARRAYS, embeddings_in, prepare_embeddings
from pipeline.files.identity import IdentityCache, ImageList, hash_text
from pipeline.labels.label_store import LabelStore
from pipeline.presentation import words
from pipeline.sam.build import embedding_shape
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.files import kind_of
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import EMBEDDINGS, StoreRoot


@dataclass(frozen=True)
class EmbeddingSource:
    """The images and the SAM that embeddings are made from. weights: the content digest of SAM's weights."""

    labels: LabelStore
    images: ImageFolder
    sam: SamSettings
    weights: str


def images_digest(labels: LabelStore, image_root: Path, identities: IdentityCache) -> str:
    """Return a digest of ids, names and contents of the images of a label store, whatever their order."""
    lines = [f"{key}\t{name}" for key, name in zip(labels.image_ids.tolist(), labels.file_names(), strict=True)]
    return identities.images(image_root, ImageList(hash_text("\n".join(lines)), lambda: lines))


def kept_embeddings(
    source: EmbeddingSource, identities: IdentityCache, store: StoreRoot, experiment: str, execution: Execution
) -> tuple[Path, int]:
    """Make the embeddings of the images unless they exist; return their store and how many images were encoded now.

    experiment: its name, for the completion record. Wait for another process that makes the same embeddings.
    """
    shape, encoded = embedding_shape(source.sam.model, source.sam.input_side), 0
    fingerprint = Fingerprint(
        stage=EMBEDDINGS,
        version=EMBEDDING_FORMAT.version,
        settings={
            "sam.model": kind_of(source.sam.model),
            "shape": list(shape),
        },  # the shape implies the side of SAM's input
        inputs={
            "images": images_digest(source.labels, source.images.root, identities),
            "sam.checkpoint": source.weights,
        },
        upstream={},
    )
    if not store.is_sealed(fingerprint.stage, fingerprint.id):
        with store.lock_when_free(fingerprint, "embeddings", experiment, execution.say) as mine:
            if mine:
                encoded = _make(source, shape, fingerprint, store, experiment, execution)
    return store.path(fingerprint.stage, fingerprint.id) / ARRAYS, encoded


def _make(
    source: EmbeddingSource,
    shape: Shape,
    fingerprint: Fingerprint,
    store: StoreRoot,
    experiment: str,
    execution: Execution,
) -> int:
    """Make the missing embeddings and seal them; return how many images were encoded."""
    folder, labels = store.partial(fingerprint.stage, fingerprint.id), source.labels
    images, size_bytes = len(labels), embedding_bytes(shape)
    execution.say(
        f"embeddings: {words.size(size_bytes)} per image x {images:,} images = {words.size(size_bytes * images)} "
        f"at most, in {store.path(fingerprint.stage, fingerprint.id)}"
    )
    begun, table = time.monotonic(), embeddings_in(folder, shape)
    made, encoded = table.sealed(), 0
    if made is None:
        per_shard = embedded_images_per_shard(shape, images)
        # By id: labels in another order have the same fingerprint and continue the same shards.
        plan = divide(sorted(labels.image_ids.tolist()), per_shard)
        complete = prepare_embeddings(folder, plan, shape)
        sam = SamChoice.of(source.sam, execution.settled, images)
        work = EmbedWork(labels.path.absolute(), source.images, folder.absolute(), sam, shape, per_shard)
        encoded = run_missing("embeddings", work, plan, complete, execution)[ENCODED_IMAGES]
        made = table.seal(plan, {}, {"fingerprint": fingerprint.to_dict()})
    summary = {"images": made.images, "encoded": made.encoded}
    store.seal(fingerprint, experiment, time.monotonic() - begun, summary, execution.made_with)
    return encoded
