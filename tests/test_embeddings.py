"""Kept embeddings: made once, used by every refinement of the same images, and found out where they are damaged."""

from __future__ import annotations

import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from pycocotools import mask as coco_mask

from pipeline.embeddings import embed_work as job
from pipeline.embeddings.embedding_store import ARRAYS, EmbeddingStore
from pipeline.errors import StageError, StoreError
from pipeline.files.leftovers import remove_folder
from pipeline.labels.rows import Status
from pipeline.sam.build import build_sam
from pipeline.sam.engine import SamEngine
from pipeline.tables import in_place
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_store import EMBEDDINGS, StoreRoot
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_refinement import box_mask, make_refinement, noise, opened, refine, result

CACHED = "compute.cache_embeddings=true"
IMAGES = 20  # two shards of sam_tiny's embeddings: 16 and 4
SHARD = 16


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    return partial(make_refinement, tmp_path)


@pytest.fixture
def encoder(monkeypatch):
    """Counts the images that SAM's encoder sees."""
    seen = SimpleNamespace(images=0)
    encode = SamEngine._encoded

    def counting(self, images):
        seen.images += len(images)
        return encode(self, images)

    monkeypatch.setattr(SamEngine, "_encoded", counting)
    return seen


def pictures(count=IMAGES):
    """A bright box on a dim ground; noise on both."""
    drawn = {}
    for image_id in range(1, count + 1):
        pixels = noise(image_id) // 6 + 40
        pixels[5:30, 5:40] += 120
        drawn[image_id] = pixels
    return drawn


def entries(count=IMAGES):
    return [result(image_id, box_mask(8, 7, 41, 31)) for image_id in range(1, count + 1)]


def summary(path, *overrides):
    space = workspace(load_experiment(path, overrides))
    return space.store.seal_of("refine", space.fingerprints["refine"].id).summary


def sealed_stores(tmp_path):
    return [path.parent for path in sorted((tmp_path / "stores" / EMBEDDINGS).glob("*/seal.json"))]


@pytest.mark.slow
def test_refining_again_with_other_prompts_runs_no_encoder(files, encoder):
    path = files(entries(), pictures())
    refine(path, CACHED)
    assert encoder.images == IMAGES
    assert summary(path, CACHED)["encoded images"] == IMAGES
    again = (CACHED, "refine.points=5", "name=other")
    refine(path, *again)
    assert encoder.images == IMAGES
    assert summary(path, *again)["encoded images"] == 0
    without = ("refine.points=4",)
    refine(path, *without)
    assert encoder.images == 2 * IMAGES
    assert summary(path, *without)["encoded images"] == IMAGES


@pytest.mark.slow
def test_another_teacher_with_labels_for_more_images_runs_no_encoder(files, encoder):
    refine(files(entries()[:3], pictures()), CACHED)
    store = refine(files(entries(), pictures()), CACHED)
    assert store.attributes.instances == IMAGES
    assert encoder.images == IMAGES


@pytest.mark.slow
def test_masks_are_those_without_embeddings_but_for_rounding(files, monkeypatch, tmp_path):
    path = files(entries(), pictures())
    prompts = ("refine.passes=3", "refine.box=elastic", "refine.mask_prompt=true")
    cached = refine(path, CACHED, *prompts)
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "others"))
    plain = refine(path, *prompts)
    ious = [
        coco_mask.iou([first.rle(first.instances[0])], [second.rle(second.instances[0])], [0])[0, 0]
        for first, second in zip(cached, plain, strict=True)
    ]
    assert len(ious) == IMAGES
    assert np.mean(ious) >= 0.999


@pytest.mark.slow
def test_enlarged_crops_are_encoded_anew_and_give_the_same(files, monkeypatch, tmp_path):
    size_hw = (480, 640)
    small = [result(image_id, box_mask(10, 10, 40, 40, size_hw)) for image_id in (1, 2)]
    path = files(small, {image_id: noise(image_id, size_hw) for image_id in (1, 2)})
    zoomed = ("refine.zoom_below_px=16",)
    cached = refine(path, CACHED, *zoomed)
    assert summary(path, CACHED, *zoomed)["encoded images"] == 2 + 2  # whole images for the store, crops for the masks
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "others"))
    assert refine(path, *zoomed).attributes.digest == cached.attributes.digest


@pytest.mark.slow
def test_making_them_goes_on_where_it_was_stopped(files, encoder, monkeypatch, tmp_path):
    path = files(entries(), pictures())
    experiment = load_experiment(path, [CACHED])
    for stage in ("split", "predict"):
        run_stage(experiment, stage, 1)
    write = job.write_embeddings

    def stopped(folder, index, first, rows, shape):
        if index == 1:
            raise KeyboardInterrupt
        write(folder, index, first, rows, shape)

    monkeypatch.setattr(job, "write_embeddings", stopped)
    with pytest.raises(SystemExit):
        run_stage(experiment, "refine", 1)
    assert sealed_stores(tmp_path) == []
    monkeypatch.setattr(job, "write_embeddings", write)
    before = encoder.images
    run_stage(experiment, "refine", 1)
    assert encoder.images - before == IMAGES - SHARD
    assert len(opened(experiment, "refine")) == IMAGES
    (folder,) = sealed_stores(tmp_path)
    assert not list(folder.rglob("*.shard"))


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["the removal of the markers", "sealing"])
def test_what_is_finished_and_not_sealed_is_kept(files, encoder, monkeypatch, tmp_path, killed_in):
    path = files(entries(), pictures())
    experiment = load_experiment(path, [CACHED])
    for stage in ("split", "predict"):
        run_stage(experiment, stage, 1)

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        if killed_in == "sealing":
            patched.setattr(StoreRoot, "seal", killed)
        else:
            # Not the removal of what another run left, before anything is encoded.
            patched.setattr(
                in_place, "remove_folder", lambda folder: killed() if encoder.images else remove_folder(folder)
            )
        run_stage(experiment, "refine", 1)
    assert sealed_stores(tmp_path) == []
    assert encoder.images == IMAGES
    run_stage(experiment, "refine", 1)
    assert encoder.images == IMAGES
    assert summary(path, CACHED)["encoded images"] == 0
    assert len(opened(experiment, "refine")) == IMAGES
    (folder,) = sealed_stores(tmp_path)
    assert EmbeddingStore.open(folder / ARRAYS).attributes.encoded == IMAGES
    assert not list(folder.rglob("*.shard"))


@pytest.mark.slow
def test_every_encoder_has_its_own(files, tmp_path):
    path = files(entries(2), pictures(2))
    refine(path, CACHED)
    refine(path, CACHED, "sam.input_side=256")  # sam_tiny's own: the same encoder
    assert len(sealed_stores(tmp_path)) == 1
    refine(path, CACHED, "sam.input_side=64")
    folders = sealed_stores(tmp_path)
    shapes = {EmbeddingStore.open(folder / ARRAYS).attributes.shape for folder in folders}
    assert shapes == {(128, 32, 32), (128, 8, 8)}


@pytest.mark.slow
def test_other_pixels_under_the_same_names_get_their_own(files, encoder, tmp_path):
    refine(files(entries(2), pictures(2)), CACHED)
    changed = pictures(2)
    changed[2][0, 0] = 255
    refine(files(entries(2), changed), CACHED)
    assert len(sealed_stores(tmp_path)) == 2
    assert encoder.images == 4


@pytest.mark.slow
def test_damage_is_found(files, tmp_path):
    path = files(entries(2), pictures(2))
    refine(path, CACHED)
    (folder,) = sealed_stores(tmp_path)
    file = folder / ARRAYS / "features" / "c" / "0" / "0" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(StageError, match=r"column features is damaged: .*does not match its checksum"):
        refine(path, CACHED, "refine.points=5")


@pytest.mark.slow
def test_an_image_that_cannot_be_read_fails_as_it_does_without(files, tmp_path):
    path = files(entries(3), pictures(2) | {3: b"no image"})
    failed = refine(path, CACHED)[2]
    assert failed.status is Status.FAILED
    plain = refine(path, "refine.points=4")[2]
    assert failed == plain
    (folder,) = sealed_stores(tmp_path)
    assert EmbeddingStore.open(folder / ARRAYS).attributes.encoded == 2


@pytest.mark.slow
def test_a_shard_without_any_image_that_can_be_read_is_a_shard(files, tmp_path):
    unreadable = dict.fromkeys(range(1, SHARD + 1), b"no image")
    store = refine(files(entries(), pictures() | unreadable), CACHED, "compute.failed_share=1")
    assert [labels.status is Status.FAILED for labels in store] == [True] * SHARD + [False] * (IMAGES - SHARD)
    (folder,) = sealed_stores(tmp_path)
    assert EmbeddingStore.open(folder / ARRAYS).attributes.encoded == IMAGES - SHARD


def test_a_disk_without_room_is_told_beforehand(files, encoder, monkeypatch):
    path = files(entries(2), pictures(2))
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(folder)._replace(free=100_000))
    with pytest.raises(StageError, match=r"take up to 0\.5 MB, 0\.1 MB are free.*compute\.cache_embeddings"):
        refine(path, CACHED)
    assert encoder.images == 0


def test_the_size_is_said_beforehand(files, capsys):
    refine(files(entries(2), pictures(2)), CACHED)
    assert "embeddings: 262 kB per image x 2 images = 524 kB at most" in capsys.readouterr().err


@pytest.mark.slow
def test_plain_zarr_reads_the_features_that_the_encoder_gave(files, tmp_path):
    drawn = pictures()
    refine(files(entries(), drawn), CACHED, "compute.precision=fp32")
    (folder,) = sealed_stores(tmp_path)
    group = zarr.open_group(folder / ARRAYS, mode="r")
    assert group["id"][:].tolist() == list(drawn)
    for image_id in (1, SHARD, SHARD + 1, IMAGES):
        expected = SamEngine(build_sam("sam_tiny"), precision="fp32").encode([drawn[image_id]]).to_numpy()[0]
        np.testing.assert_allclose(group["features"][image_id - 1], expected, atol=2e-3)
        read = EmbeddingStore.open(folder / ARRAYS).encoded_image(image_id, (48, 64))
        np.testing.assert_array_equal(read.features, group["features"][image_id - 1])


@pytest.mark.slow
def test_images_lie_by_id_in_whatever_order_they_are_listed(files, tmp_path):
    refine(files(entries(3), dict(reversed(pictures(3).items()))), CACHED)
    (folder,) = sealed_stores(tmp_path)
    assert zarr.open_group(folder / ARRAYS, mode="r")["id"][:].tolist() == [1, 2, 3]


@pytest.mark.slow
def test_what_is_not_there_or_of_another_size_is_none(files, tmp_path):
    refine(files(entries(2), pictures(2)), CACHED)
    (folder,) = sealed_stores(tmp_path)
    store = EmbeddingStore.open(folder / ARRAYS)
    assert store.encoded_image(1, (48, 64)) is not None
    assert store.encoded_image(1, (64, 48)) is None
    assert store.encoded_image(99, (48, 64)) is None
    with pytest.raises(StoreError, match="there are no embeddings"):
        EmbeddingStore.open(folder / "elsewhere")
