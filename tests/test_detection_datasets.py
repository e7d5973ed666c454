"""Training samples: what the labels say, the same in every process, and never stopped by a bad file."""

from __future__ import annotations

import json
import pickle
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from PIL import Image
from torch.utils.data import DataLoader

from pipeline.augment.settings import AugmentSettings
from pipeline.augment.sources import LabelledFolder
from pipeline.coco.reading import read_coco
from pipeline.detection import datasets as datasets_module
from pipeline.detection.composites import Composites
from pipeline.detection.datasets import LabelledImages, Mixture, StoredLabels
from pipeline.detection.packing import sample_pipeline
from pipeline.detection.registry import DATASETS
from pipeline.detection.sample_seed import Sample
from pipeline.detection.sampler import MixtureSampler
from pipeline.errors import StageError, StoreError
from pipeline.files.images import read_image
from pipeline.labels.dataset_rows import dataset_rows
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status, label_from_mask
from pipeline.structure.target_columns import MAP_SIDE, ImageTargets
from pipeline.structure.target_writing import seal_targets, write_target_shard
from tests import test_augment_stage
from tests.processes import forked
from tests.test_augment_composite import rectangle
from tests.test_augment_stage import augmented, sources
from tests.tiny_coco import TinyCoco, tiny_coco, write_json
from tests.tiny_labels import tiny_store

PLAIN = sample_pipeline([], photometric=None)
GEOMETRY = [
    {"type": "RandomResize", "resize_type": "mmdet.Resize", "scale": (60, 40), "ratio_range": (0.7, 1.5)},
    {"type": "mmdet.RandomCrop", "crop_size": (40, 32), "allow_negative_crop": True},
    {"type": "mmdet.RandomFlip", "prob": 0.5},
]
# As a config holds it after a way through JSON: lists for tuples.
CHANGING = json.loads(json.dumps(sample_pipeline(GEOMETRY, photometric={"jitter": 0.8, "grey": 0.2, "blur": 0.5})))


def first(item: int = 0, draw: int = 0) -> Sample:
    return Sample(0, item, draw, 0)


def labelled(tiny: TinyCoco, **settings) -> LabelledImages:
    return LabelledImages(str(tiny.annotations), str(tiny.image_root), PLAIN, **settings)


def stored(folder: LabelledFolder, pipeline=PLAIN, **settings) -> StoredLabels:
    return StoredLabels(str(folder.store_path), str(folder.images.root), pipeline, **settings)


def composites(folder: LabelledFolder, pipeline=PLAIN, labelled_folder=None, **settings) -> Composites:
    donors = (None, None)
    if labelled_folder:
        donors = (str(labelled_folder.store_path), str(labelled_folder.images.root))
    chosen = AugmentSettings(**settings).model_dump(mode="json")
    return Composites(str(folder.store_path), str(folder.images.root), *donors, chosen, pipeline)


def refined(path, images: int, odd: dict[int, bytes | None] | None = None) -> LabelledFolder:
    """Images with three instances each, in the categories of the store; `odd` files hold something else or nothing."""
    made = test_augment_stage.refined(path, images, odd)
    rows = [
        replace(row, instances=tuple(replace(each, category_id=(3, 7)[each.category_id % 2]) for each in row.instances))
        for row in LabelStore.open(made.store_path)
    ]
    tiny_store(path / "store.zarr", rows)
    return LabelledFolder.of(path / "store.zarr", made.images.root)


def folder_of(path, rows: list[ImageLabels]) -> LabelledFolder:
    """A label store and the images it names, black."""
    tiny_store(path / "store.zarr", rows)
    for row in rows:
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path / row.file_name)
    return LabelledFolder.of(path / "store.zarr", path)


def one_of_each() -> tuple[InstanceLabel, ...]:
    """An instance a decision, side by side: category 7, 3 and 7, score and gate's confidence of its own."""
    kinds = [(Decision.SAM, 7, 0.75, 0.5), (Decision.TEACHER, 3, 0.5, 0.25), (Decision.DROPPED, 7, 0.25, 0.0)]
    mask_scores = (0.25, None, 0.5)
    return tuple(
        replace(
            label_from_mask(rectangle((40, 60), 20 * place, 5, 20 * place + 10, 15), category, score, decision),
            gate_confidence=confidence,
            mask_score=mask_scores[place],
        )
        for place, (decision, category, score, confidence) in enumerate(kinds)
    )


def test_labelled_images_are_those_of_the_file(tmp_path):
    tiny = tiny_coco(tmp_path, instances=4)
    tiny.content["annotations"][0] |= {"iscrowd": 1}
    write_json(tiny.annotations, tiny.content)
    dataset = labelled(tiny)
    assert len(dataset) == 4
    assert dataset.metainfo == {"classes": ("category 3", "category 7")}
    crowds = 0
    for item, image in enumerate(tiny.content["images"]):
        packed = dataset[first(item)]
        sample = packed["data_samples"]
        pixels = read_image(tiny.image_root / image["file_name"])
        np.testing.assert_array_equal(packed["inputs"].permute(1, 2, 0).numpy()[..., ::-1], pixels)
        own = [each for each in tiny.content["annotations"] if each["image_id"] == image["id"]]
        for instances, crowd in ((sample.gt_instances, 0), (sample.ignored_instances, 1)):
            expected = [each for each in own if each["iscrowd"] == crowd]
            assert instances.labels.tolist() == [[3, 7].index(each["category_id"]) for each in expected]
            for mask, each in zip(instances.masks.masks, expected, strict=True):
                np.testing.assert_array_equal(mask.astype(bool), tiny.masks[each["id"]])
        crowds += len(sample.ignored_instances)
        assert (sample.gt_instances.weights == 1).all()
        assert (sample.img_id, sample.source, sample.replaced) == (image["id"], "labelled", 0)
        assert (sample.ori_shape, sample.img_shape) == ((48, 64), (48, 64))
    assert crowds == 1


def test_some_of_the_images(tmp_path):
    tiny = tiny_coco(tmp_path)
    dataset = labelled(tiny, image_ids=[4, 2])
    assert [dataset[first(item)]["data_samples"].img_id for item in range(len(dataset))] == [2, 4]
    with pytest.raises(StageError, match="no image with the id 99"):
        labelled(tiny, image_ids=[2, 99])


def test_images_of_rare_classes_are_due_more_often(tmp_path):
    tiny = tiny_coco(tmp_path, images=4, instances=1)
    categories = [7, 7, 3, 7]
    for annotation, category in zip(tiny.content["annotations"], categories, strict=True):
        annotation["category_id"] = category
    tiny.content["annotations"].append(tiny.content["annotations"][1] | {"id": 99, "category_id": 3})
    write_json(tiny.annotations, tiny.content)
    assert labelled(tiny).repeats is None
    # Category 3 is in 2 of 4 images, 7 in 3 of 4; of the images to train on in 1 of 3 and 3 of 3.
    assert labelled(tiny, repeat_threshold=0.72).repeats.tolist() == [1.0, 1.2, 1.2, 1.0]
    ids = [tiny.content["images"][item]["id"] for item in (0, 1, 3)]
    some = labelled(tiny, repeat_threshold=3.0, image_ids=ids)
    np.testing.assert_allclose(some.repeats, [3**0.5, 3.0, 3**0.5], rtol=1e-12)
    sampler = MixtureSampler(Mixture([some]), [1], [[1]], seed=0)
    items = Counter(sample.item for sample in islice(sampler, 6_000))
    expected = some.repeats / some.repeats.sum() * 6_000
    assert all(abs(items[item] - due) < 100 for item, due in enumerate(expected))


def test_structural_targets_come_along(tmp_path):
    tiny = tiny_coco(tmp_path, images=2)
    all_targets = [structural_targets(image, anchors=8) for image in tiny.content["images"]]
    dataset = labelled(tiny, structure=str(sealed_targets(tmp_path, all_targets)))
    for item, targets in enumerate(all_targets):
        sample = dataset[first(item)]["data_samples"].to("cpu")
        np.testing.assert_array_equal(sample.structure_anchors_xy.numpy(), targets.anchors_xy)
        np.testing.assert_array_equal(sample.structure_windows_xyxy.numpy(), targets.windows_xyxy)
        np.testing.assert_array_equal(sample.structure_maps.numpy(), targets.maps)
    assert "structure_maps" not in labelled(tiny)[first()]["data_samples"]


def structural_targets(image: dict[str, Any], anchors: int) -> ImageTargets:
    """Random targets of an image of 64 x 48 pixels."""
    rng = np.random.default_rng(image["id"])
    return ImageTargets(
        image["id"],
        image["file_name"],
        64,
        48,
        Status.OK,
        "",
        rng.uniform((0, 0), (64, 48), (anchors, 2)).astype(np.float32),
        rng.integers((0, 0, 40, 30), (20, 15, 64, 48), (anchors, 4)).astype(np.int32),
        rng.integers(0, 256, (anchors, MAP_SIDE, MAP_SIDE), dtype=np.uint8),
    )


def sealed_targets(folder: Path, rows: list[ImageTargets]) -> Path:
    write_target_shard(folder / "shards", 0, rows)
    seal_targets(folder / "shards", [[row.image_id for row in rows]], folder / "structure.zarr", {})
    return folder / "structure.zarr"


def test_each_sample_draws_its_own_structural_anchors_among_those_that_it_shows(tmp_path):
    tiny = tiny_coco(tmp_path, images=2)
    seen, failed = structural_targets(tiny.content["images"][0], anchors=60), tiny.content["images"][1]
    rows = [seen, ImageTargets.of_failure(failed["id"], failed["file_name"], 64, 48, "cut off")]
    # As a config holds it after a way through JSON.
    pipeline = json.loads(json.dumps(sample_pipeline(GEOMETRY, photometric=None, anchors=10)))
    dataset = LabelledImages(
        str(tiny.annotations), str(tiny.image_root), pipeline, structure=str(sealed_targets(tmp_path, rows))
    )
    stored = {tuple(xy): index for index, xy in enumerate(seen.anchors_xy.tolist())}
    drawn: set[tuple[int, ...]] = set()
    for draw in range(8):
        sample = dataset[first(0, draw)]["data_samples"]
        members = [stored[tuple(xy)] for xy in sample.structure_anchors_xy.tolist() if not np.isnan(xy[0])]
        assert 0 < len(members) == len(set(members)) <= 10
        np.testing.assert_array_equal(sample.structure_windows_xyxy[: len(members)], seen.windows_xyxy[members])
        np.testing.assert_array_equal(sample.structure_maps[: len(members)], seen.maps[members])
        drawn.add(tuple(members))
        again = dataset[first(0, draw)]["data_samples"]
        for key in ("structure_anchors_xy", "structure_windows_xyxy", "structure_maps"):
            np.testing.assert_array_equal(getattr(again, key), getattr(sample, key))
    assert len(drawn) == 8
    # Samples of a batch have as many rows, whether an image shows no anchor or failed.
    nothing = dataset[first(1)]["data_samples"]
    assert nothing.structure_anchors_xy.shape == (10, 2)
    assert nothing.structure_anchors_xy.isnan().all()
    assert nothing.structure_maps.shape == (10, MAP_SIDE, MAP_SIDE)
    plain = LabelledImages(str(tiny.annotations), str(tiny.image_root), pipeline)
    assert "structure_maps" not in plain[first()]["data_samples"]


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("none", [1, 1]),
        ("class", [0.75, 0.5]),
        ("mask", [0.25, 1]),
        ("product", [0.1875, 0.5]),
        ("gate", [0.5, 0.25]),
    ],
)
def test_stored_labels_weigh_and_ignore(tmp_path, weight, expected):
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, one_of_each())])
    sample = stored(folder, instance_weight=weight)[first()]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [1, 0]
    assert sample.gt_instances.weights.tolist() == expected
    assert sample.gt_instances.bboxes.tensor.tolist() == [[0, 5, 10, 15], [20, 5, 30, 15]]
    assert sample.ignored_instances.labels.tolist() == [1]
    assert sample.ignored_instances.masks.masks[0].nonzero()[1].min() == 40
    without = stored(folder, instance_weight=weight, ignore_dropped=False)[first()]["data_samples"]
    assert without.gt_instances.weights.tolist() == expected
    assert len(without.ignored_instances) == 0


@pytest.mark.parametrize(
    ("action", "labels", "weights", "ignored"),
    [
        ("flag", [1, 0], [1, 1], 1),
        ("weight", [1, 0], [0.25, 1], 1),
        ("correct", [0, 0], [1, 1], 1),
        ("drop", [0], [1], 2),
    ],
)
def test_doubted_classes_weigh_less_are_corrected_or_ignored(tmp_path, action, labels, weights, ignored):
    doubted, other, dropped = one_of_each()
    instances = (
        replace(doubted, class_vote=3, class_agreement=0.75),
        replace(other, class_vote=7, class_agreement=0.5),
        dropped,
    )
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, instances)])
    check = {"action": action, "min_agreement": 0.7}
    sample = stored(folder, class_check=check)[first()]["data_samples"]
    assert sample.gt_instances.labels.tolist() == labels
    assert sample.gt_instances.weights.tolist() == weights
    assert len(sample.ignored_instances) == ignored
    both = stored(folder, class_check=check, instance_weight="class")[first()]["data_samples"].gt_instances.weights
    assert both.tolist() == [
        weight * score for weight, score in zip(weights, (0.75, 0.5)[-len(weights) :], strict=True)
    ]


def test_labels_without_a_gate_cannot_be_weighed_by_it(tmp_path):
    instances = tuple(replace(each, gate_confidence=None) for each in one_of_each())
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, instances)])
    with pytest.raises(StageError, match="student.instance_weight cannot be gate"):
        stored(folder, instance_weight="gate")


def test_labels_without_mask_scores_cannot_be_weighed_by_them(tmp_path):
    instances = tuple(replace(each, mask_score=None) for each in one_of_each())
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, instances)])
    with pytest.raises(StageError, match="student.instance_weight cannot be mask:"):
        stored(folder, instance_weight="mask")
    weights = stored(folder, instance_weight="product")[first()]["data_samples"].gt_instances.weights
    assert weights.tolist() == [0.75, 0.5]


def test_failed_images_are_left_out_and_empty_ones_stay(tmp_path):
    rows = [
        ImageLabels.of_failure(1, "1.png", "broken", 60, 40),
        ImageLabels.of_instances(2, "2.png", 60, 40, ()),
        ImageLabels.of_instances(3, "3.png", 60, 40, one_of_each()),
    ]
    folder = folder_of(tmp_path, rows)
    for dataset in (stored(folder), composites(folder)):
        found = [dataset[first(item)]["data_samples"] for item in range(len(dataset))]
        assert [sample.img_path for sample in found] == [str(tmp_path / "2.png"), str(tmp_path / "3.png")]
    assert len(stored(folder)[first(0)]["data_samples"].gt_instances) == 0


@pytest.mark.parametrize("placement", ["in-place", "moved"])
def test_composites_are_those_of_the_augment_stage_and_then_more(tmp_path, placement):
    folder = refined(tmp_path, 7)
    settings = {"copies": 2, "placement": placement, "min_area_px": 0.0, "seed": 3}
    store = augmented(sources(folder, **settings), tmp_path / "out")
    materialised = stored(LabelledFolder.of(tmp_path / "out" / "labels.zarr", tmp_path / "out"), source="composite")
    expected = {}
    for item in range(len(materialised)):
        packed = materialised[first(item)]
        expected[packed["data_samples"].img_id] = packed
    on_the_fly = composites(folder, **settings)
    assert len(on_the_fly) == 7
    seen = []
    for copy in range(4):
        for item in range(7):
            packed = on_the_fly[first(item, copy * 7 + 2)]
            image_id = packed["data_samples"].img_id
            seen.append(packed["inputs"].numpy().tobytes())
            if copy >= 2:
                assert image_id not in expected
                continue
            same = expected.pop(image_id)
            torch.testing.assert_close(packed["inputs"], same["inputs"], rtol=0, atol=0)
            assert packed["data_samples"].source == same["data_samples"].source == "composite"
            ours, theirs = packed["data_samples"].gt_instances, same["data_samples"].gt_instances
            np.testing.assert_array_equal(ours.masks.masks, theirs.masks.masks)
            assert ours.labels.tolist() == theirs.labels.tolist()
    assert not expected
    assert len(store) == 14
    assert len(set(seen)) > 20


def test_composites_with_labelled_donors(tmp_path):
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, ())])
    tiny = tiny_coco(tmp_path / "labelled", images=1, instances=1, size=(60, 40))
    tiny_store(tmp_path / "labelled.zarr", list(dataset_rows(read_coco(tiny.annotations))))
    donors = LabelledFolder.of(tmp_path / "labelled.zarr", tiny.image_root)
    dataset = composites(folder, labelled_folder=donors, partners="labelled-too")
    sample = dataset[first()]["data_samples"]
    np.testing.assert_array_equal(sample.gt_instances.masks.masks[0].astype(bool), tiny.masks[1])


@pytest.mark.parametrize("kind", [stored, composites])
def test_an_unreadable_image_is_replaced_and_told_once(tmp_path, monkeypatch, kind):
    told = []
    monkeypatch.setattr(datasets_module, "print_log", lambda message, *_: told.append(message))
    dataset = kind(refined(tmp_path, 6, odd={3: b"", 5: None}))
    draws = [first(item, 6 * copy) for copy in range(8) for item in range(6)]  # a composite's partner changes
    found = [dataset[each]["data_samples"] for each in draws]
    ids = {int(sample.img_path.split("/")[-1].removesuffix(".png")) for sample in found}
    assert ids == {1, 2, 4, 6}
    assert sum(sample.replaced > 0 for sample in found) >= 16
    assert len(told) == len(set(told)) == 2
    assert any("3.png: the file is empty" in message for message in told)
    assert [dataset[each]["data_samples"].img_path for each in draws] == [sample.img_path for sample in found]


def test_where_every_image_fails_training_ends_with_the_reason(tmp_path):
    dataset = stored(refined(tmp_path, 3, odd={1: b"", 2: b"", 3: b""}))
    with pytest.raises(StageError, match=r"No pseudo image can be used: 3 were tried; .*png: the file is empty"):
        dataset[first()]


def test_transforms_that_refuse_every_image_are_named(tmp_path):
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, ())])
    pipeline = sample_pipeline([{"type": "mmdet.RandomCrop", "crop_size": (10, 10)}], photometric=None)
    with pytest.raises(StageError, match="allow_negative_crop=True"):
        stored(folder, pipeline)[first()]


def test_a_damaged_store_is_not_a_bad_image(tmp_path):
    folder = refined(tmp_path, 3)
    dataset = stored(folder)
    for chunk in (folder.store_path / "instances" / "rle_bytes").rglob("c/*"):
        chunk.unlink()
    with pytest.raises(StoreError):
        dataset[first()]


def mixture(tmp_path) -> Mixture:
    made: Mixture = DATASETS.build(mixture_config(tmp_path))
    return made


def mixture_config(tmp_path) -> dict:
    """Of all three sources, after a way through JSON."""
    folder = refined(tmp_path / "refined", 9, odd={4: b"damaged"})
    tiny = tiny_coco(tmp_path / "labelled", size=(60, 40))
    content = tiny.content | {"categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "Hündin"}]}
    write_json(tiny.annotations, content)
    common = {"image_root": str(folder.images.root), "pipeline": CHANGING}
    configs = [
        {
            "type": "s4m.LabelledImages",
            "annotations": str(tiny.annotations),
            "image_root": str(tiny.image_root),
            "pipeline": CHANGING,
        },
        {"type": "s4m.StoredLabels", "store": str(folder.store_path), **common},
        {
            "type": "s4m.Composites",
            "refined_store": str(folder.store_path),
            "labelled_store": None,
            "labelled_root": None,
            "settings": AugmentSettings(placement="moved").model_dump(mode="json"),
            **common,
        },
    ]
    return json.loads(json.dumps({"type": "s4m.Mixture", "datasets": configs}))


def batches(dataset: Mixture, count: int, workers: int = 0, start: str | None = None, skipped: int = 0) -> list:
    sampler = MixtureSampler(dataset, [2, 2], [[1], [1, 1]], seed=5)
    sampler.skip(skipped * 4)
    loader = DataLoader(
        dataset,
        4,
        sampler=sampler,
        num_workers=workers,
        collate_fn=pseudo_collate,
        multiprocessing_context=start,
    )
    made = []
    for batch in loader:
        made.append(batch)
        if len(made) == count:
            return made
    return made


def content(batch: dict) -> list:
    """All that a batch holds, to be compared."""
    found = []
    for pixels, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        meta = {key: np.asarray(value).tolist() for key, value in sample.metainfo.items() if key != "replaced"}
        instances = [
            (part.labels.tolist(), part.bboxes.tensor.tolist(), part.masks.masks.tobytes())
            for part in (sample.gt_instances, sample.ignored_instances)
        ]
        found.append((pixels.numpy().tobytes(), tuple(pixels.shape), meta, instances))
    return found


@pytest.mark.slow
def test_samples_do_not_depend_on_workers_or_order(tmp_path):
    dataset = mixture(tmp_path)
    expected = [content(batch) for batch in batches(dataset, 8)]
    assert [content(batch) for batch in batches(dataset, 8, workers=1, start="fork")] == expected
    assert [content(batch) for batch in batches(dataset, 8, workers=2, start="fork")] == expected
    assert [content(batch) for batch in batches(dataset, 3, skipped=5)] == expected[5:]
    assert len({pixels for batch in expected for pixels, *_ in batch}) == 32


@pytest.mark.slow
def test_samples_are_the_same_in_spawned_workers(tmp_path):
    dataset = mixture(tmp_path)
    expected = [content(batch) for batch in batches(dataset, 2)]
    forked()
    assert [content(batch) for batch in batches(dataset, 2, workers=1, start="forkserver")] == expected


def test_mmengine_builds_and_resumes_the_loader(tmp_path):
    config = Config(
        {
            "dataset": mixture_config(tmp_path),
            "sampler": {"type": "s4m.MixtureSampler", "batch_sizes": [2, 2], "amounts": [[1], [1, 1]]},
            "batch_size": 4,
            "num_workers": 0,
        }
    )
    loader = Runner.build_dataloader(config.to_dict(), seed=5)
    iterator = _InfiniteDataloaderIterator(loader)
    iterator.skip_iter(2)
    assert content(next(iterator)) == content(batches(loader.dataset, 3)[2])


def test_random_numbers_of_the_process_are_left_alone(tmp_path):
    dataset = mixture(tmp_path)

    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    batches(dataset, 3)
    # A loader draws its workers' seed from torch's generator; samples themselves draw nothing.
    assert states()[:2] == before[:2]
    before = states()
    dataset[first()]
    assert states() == before


def test_the_process_does_not_disturb_samples(tmp_path):
    dataset = mixture(tmp_path)
    samples = [Sample(source, 1, 2, 3) for source in range(3)]
    expected = [content(pseudo_collate([dataset[sample]])) for sample in samples]
    for reseed in (random.seed, np.random.seed, torch.manual_seed):
        reseed(9)
    assert [content(pseudo_collate([dataset[sample]])) for sample in reversed(samples)] == expected[::-1]


def test_a_pickled_dataset_is_small_whatever_was_read(tmp_path):
    folder = refined(tmp_path, 30)
    for dataset in (stored(folder), composites(folder)):
        fresh = len(pickle.dumps(dataset))
        for item in range(30):
            dataset[first(item, item)]
        assert len(pickle.dumps(dataset)) == fresh < 10_000
        assert len(pickle.loads(pickle.dumps(dataset))) == 30


def test_a_mixture_needs_the_same_classes_and_labelled_images(tmp_path):
    tiny = tiny_coco(tmp_path / "labelled")
    with pytest.raises(StageError, match="same categories"):
        Mixture([labelled(tiny), stored(refined(tmp_path / "refined", 2))])
    with pytest.raises(StageError, match="no labelled image"):
        Mixture([labelled(tiny, image_ids=[])])
    assert Mixture([labelled(tiny)]).metainfo["classes"] == ("category 3", "category 7")
