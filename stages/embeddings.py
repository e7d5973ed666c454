"""SAM's embeddings of the unlabelled images: kept in the store where `compute.cache_embeddings` asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.embeddings.job import ENCODED, EmbedWork
from pipeline.embeddings.making import EMBEDDINGS, finish, prepare
from pipeline.embeddings.schema import STAGE, Shape, fingerprint_of, image_bytes, images_per_shard
from pipeline.fingerprint import Fingerprint
from pipeline.identity import IdentityCache, ImageList, hash_text
from pipeline.labels.shards import divide
from pipeline.labels.store import LabelStore
from pipeline.sam.build import embedding_shape
from pipeline.sam.worker import SamChoice
from pipeline.store import StoreRoot
from pipeline.workspace import work_root
from stages.console import size_text
from stages.context import StageContext
from stages.progress import run_missing

WAIT_SECONDS = 2.0


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
    if not store.is_sealed(STAGE, fingerprint.id):
        with _held(store, fingerprint, context):
            if not store.is_sealed(STAGE, fingerprint.id):
                encoded = _make(store, fingerprint, labels, image_root, shape, context)
    return store.path(STAGE, fingerprint.id) / EMBEDDINGS, encoded


def _images_digest(labels: LabelStore, image_root: Path) -> str:
    """Of ids, names and contents of the images."""
    lines = [f"{key}\t{name}" for key, name in zip(labels.image_ids.tolist(), labels.file_names(), strict=True)]
    images = ImageList(hash_text("\n".join(lines)), lambda: lines)
    return IdentityCache(work_root() / ".identity.sqlite").images(image_root, images)


def _make(
    store: StoreRoot,
    fingerprint: Fingerprint,
    labels: LabelStore,
    image_root: Path,
    shape: Shape,
    context: StageContext,
) -> int:
    """Make what is missing and seal it; gives how many images were encoded."""
    experiment = context.experiment
    folder = store.partial(STAGE, fingerprint.id)
    images, size_bytes = len(labels), image_bytes(shape)
    context.say(
        f"embeddings: {size_text(size_bytes)} an image x {images:,} images = {size_text(size_bytes * images)} at most, "
        f"in {store.path(STAGE, fingerprint.id)}"
    )
    begun = time.monotonic()
    per_shard = images_per_shard(shape, images)
    plan = divide(labels.image_ids.tolist(), per_shard)
    complete = prepare(folder, plan, shape)
    work = EmbedWork(
        labels=labels.path.absolute(),
        image_root=image_root.absolute(),
        folder=folder.absolute(),
        sam=SamChoice.of(experiment),
        shape=shape,
        images_per_shard=per_shard,
    )
    counts = run_missing("embeddings", work, plan, complete, experiment.compute)
    made = finish(folder, plan, shape, {"fingerprint": fingerprint.to_dict()})
    summary = {"images": made.images, "encoded": made.encoded}
    store.seal(fingerprint, experiment.name, time.monotonic() - begun, summary, {})
    return counts[ENCODED]


@contextmanager
def _held(store: StoreRoot, fingerprint: Fingerprint, context: StageContext) -> Iterator[None]:
    """Be the only one to make them; where somebody else is, wait: they may be there afterwards."""
    said = False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(store.lock(STAGE, fingerprint.id, context.experiment.name))
                break
            except BlockingIOError:
                if not said:
                    holder = store.holder(STAGE, fingerprint.id)
                    context.say(f"embeddings are being made by {holder or 'another process'}; waiting for them")
                    said = True
                time.sleep(WAIT_SECONDS)
        yield
