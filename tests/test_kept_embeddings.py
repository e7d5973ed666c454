"""Keeping embeddings, without an experiment: by content they are found again, and made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.embeddings.embedding_store import EmbeddingStore
from pipeline.files.identity import IdentityCache
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import ImageLabels
from pipeline.sam.settings import SamSettings
from pipeline.workflow.kept_embeddings import EmbeddingSource, images_digest, kept_embeddings
from pipeline.workflow.result_store import StoreRoot
from tests.tiny_refinement import noise


def labels(folder: Path, name: str, image_ids: list[int]) -> LabelStore:
    rows = [ImageLabels.of_instances(each, f"{each}.png", 64, 48, ()) for each in image_ids]
    write_label_store(folder / name, rows, [], {})
    return LabelStore.open(folder / name)


@pytest.fixture
def source(tmp_path) -> EmbeddingSource:
    images = tmp_path / "images"
    images.mkdir()
    for image_id in (1, 2, 3):
        Image.fromarray(noise(image_id)).save(images / f"{image_id}.png")
    return EmbeddingSource(
        labels(tmp_path, "labels.zarr", [1, 2, 3]), ImageFolder(images), SamSettings(input_side=64), "weights"
    )


@pytest.fixture
def identities(tmp_path) -> IdentityCache:
    return IdentityCache(tmp_path / "identity.sqlite")


def test_the_digest_is_of_ids_names_and_contents_and_of_no_order(source, identities, tmp_path):
    digest = images_digest(source.labels, source.images.root, identities)
    reordered = labels(tmp_path, "reordered.zarr", [3, 1, 2])
    assert images_digest(reordered, source.images.root, identities) == digest
    fewer = images_digest(labels(tmp_path, "fewer.zarr", [1, 2]), source.images.root, identities)
    Image.fromarray(noise(9)).save(source.images.root / "3.png")
    assert len({digest, fewer, images_digest(source.labels, source.images.root, identities)}) == 3


def test_they_are_made_once_and_found_again(source, identities, tmp_path):
    store, told, said = StoreRoot(tmp_path / "stores"), [], []
    execution = Execution(ComputeSettings(device="cpu"), told.append, said.append)
    path, encoded = kept_embeddings(source, identities, store, "mine", execution)
    assert encoded == 3
    assert EmbeddingStore.open(path).attributes.encoded == 3
    assert [(each.what, each.done) for each in told] == [("embeddings", 0), ("embeddings", 3)]
    (sealed,) = store.results()
    assert sealed.seal.made_by["precision"] == execution.settled.precision
    assert said == [f"embeddings: 16.4 kB per image x 3 images = 49.2 kB at most, in {path.parent}"]
    silent = Execution(ComputeSettings(device="cpu"))
    assert kept_embeddings(source, identities, store, "other", silent) == (path, 0)
    other = replace(source, weights="other weights")
    assert kept_embeddings(other, identities, store, "mine", silent)[0] != path
