"""SAM's embeddings of the unlabelled images: kept in the store where `compute.cache_embeddings` asks for it."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.embeddings.embed_work import ENCODED, EmbedWork
from pipeline.embeddings.embedding_columns import EmbeddingAttributes, Shape, embedded_images_per_shard, embedding_bytes
from pipeline.embeddings.embedding_writing import ARRAYS, embeddings_in, prepare_embeddings
from pipeline.files.identity import IdentityCache, ImageList, hash_text
from pipeline.labels.label_store import LabelStore
from pipeline.presentation import words
from pipeline.sam.build import embedding_shape
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.kept_embeddings import fingerprint_of
from pipeline.workflow.result_store import StoreRoot
from pipeline.workflow.workspace import identity_file, work_root
from stages.context import StageContext
from stages.progress import run_missing
from stages.waiting import held


def kept_embeddings(context: StageContext, labels_path: Path, image_root: Path) -> tuple[Path, int]:
    """The sealed embeddings of the images of a label store; whoever needs them first makes them.

    Gives also how many images were encoded for that now.
    """
    experiment = context.experiment
    labels = LabelStore.open(labels_path)
    shape = embedding_shape(experiment.sam.model, experiment.sam.input_side)
    weights = context.fingerprint["inputs"]["sam.checkpoint"]
    fingerprint = fingerprint_of(_images_digest(labels, image_root), weights, experiment.sam.model, shape)
    store = StoreRoot(experiment.store)
    encoded = 0
    if not store.is_sealed(fingerprint.stage, fingerprint.id):
        with held(store, fingerprint, "embeddings", experiment.name, context.say) as mine:
            if mine:
                encoded = _make(store, fingerprint, labels, image_root, shape, context)
    return store.path(fingerprint.stage, fingerprint.id) / ARRAYS, encoded


def _images_digest(labels: LabelStore, image_root: Path) -> str:
    """Of ids, names and contents of the images."""
    lines = [f"{key}\t{name}" for key, name in zip(labels.image_ids.tolist(), labels.file_names(), strict=True)]
    images = ImageList(hash_text("\n".join(lines)), lambda: lines)
    return IdentityCache(identity_file(work_root())).images(image_root, images)


def _make(
    store: StoreRoot,
    fingerprint: Fingerprint,
    labels: LabelStore,
    image_root: Path,
    shape: Shape,
    context: StageContext,
) -> int:
    """Make what is missing and seal it; gives how many images were encoded."""
    folder = store.partial(fingerprint.stage, fingerprint.id)
    images, size_bytes = len(labels), embedding_bytes(shape)
    context.say(
        f"embeddings: {words.size(size_bytes)} an image x {images:,} images = {words.size(size_bytes * images)} "
        f"at most, in {store.path(fingerprint.stage, fingerprint.id)}"
    )
    begun = time.monotonic()
    made, encoded = embeddings_in(folder, shape).sealed(), 0
    if made is None:
        made, encoded = _fill(folder, fingerprint, labels, image_root, shape, context.experiment)
    summary = {"images": made.images, "encoded": made.encoded}
    store.seal(fingerprint, context.experiment.name, time.monotonic() - begun, summary, {})
    return encoded


def _fill(
    folder: Path, fingerprint: Fingerprint, labels: LabelStore, image_root: Path, shape: Shape, experiment: Experiment
) -> tuple[EmbeddingAttributes, int]:
    """Make what is missing; gives also how many images were encoded."""
    per_shard = embedded_images_per_shard(shape, len(labels))
    # By id, as the fingerprint knows no order: labels in another order go on with the same shards.
    plan = divide(sorted(labels.image_ids.tolist()), per_shard)
    complete = prepare_embeddings(folder, plan, shape)
    work = EmbedWork(
        labels=labels.path.absolute(),
        image_root=image_root.absolute(),
        folder=folder.absolute(),
        sam=SamChoice.of(experiment.sam, experiment.compute),
        shape=shape,
        images_per_shard=per_shard,
    )
    counts = run_missing("embeddings", work, plan, complete, experiment.compute)
    made = embeddings_in(folder, shape).seal(plan, {}, {"fingerprint": fingerprint.to_dict()})
    return made, counts[ENCODED]
