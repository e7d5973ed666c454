"""Classes of labels, checked by labelled instances with similar features."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import stages.predict
from pipeline.coco.reading import read_coco
from pipeline.detection import class_neighbours, predicting
from pipeline.detection.class_neighbours import (
    LabelledInstances,
    Neighbours,
    labelled_instances,
    mask_features,
)
from pipeline.detection.predict_work import PredictWork
from pipeline.detection.predictor import FeatureLevels, Predictor
from pipeline.detection.published import DetectorChoice, build_published, read_published
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.masks.run_lengths import encode_mask
from pipeline.workflow.result_files import LABELS
from tests.test_predict_stage import NOISE, context_of, folder
from tests.tiny_coco import tiny_coco, write_json
from tests.tiny_detectors import FAMILIES, publish_tiny


def labelled(categories: list[int], features: list[list[float]], channels: tuple[int, ...] = (2,)) -> LabelledInstances:
    return LabelledInstances(np.array(categories), np.array(features, np.float32), np.array(channels))


# Two classes on either side of their mean.
SIDES = labelled([3, 3, 3, 7, 7, 7], [[1, 0.1], [1, 0], [1, -0.1], [-1, 0.1], [-1, 0], [-1, -0.1]])


def test_the_class_of_the_most_similar_instances_wins():
    asked = np.array([[5, 0.2], [-0.3, 0], [0.1, -0.01]], np.float32)
    assert Neighbours(SIDES, 3).votes(asked) == [(3, 1.0), (7, 1.0), (3, 1.0)]


def test_classes_are_compared_rank_by_rank():
    # The nearest is a 7, but those that follow are farther than the 3s.
    odd = labelled([3, 3, 3, 7, 7, 7], [[1, 0.5], [1, 0.5], [1, 0.5], [1, 0.1], [-2, -0.8], [-2, -0.8]])
    ((vote, share),) = Neighbours(odd, 3).votes(np.array([[1.0, 0.1]], np.float32))
    assert (vote, share) == (3, pytest.approx(2 / 3))
    assert Neighbours(odd, 1).votes(np.array([[1.0, 0.1]], np.float32)) == [(7, 1.0)]


def test_a_rare_class_is_not_outvoted_by_a_frequent_one():
    many = [[-1.0, 0.01 * index] for index in range(40)]
    rare = labelled([3, *[7] * 40], [[1.0, 0.0], *many])
    assert Neighbours(rare, 10).votes(np.array([[1.0, 0.0], [-1.0, 0.1]], np.float32)) == [(3, 1.0), (7, 1.0)]


def test_levels_count_alike_whatever_their_scale():
    # The second level has large numbers that say 7; the first and the third say 3.
    of_levels = [[1, 0, 1000, 0, 0.01, 0], [-1, 0, -1000, 0, -0.01, 0]]
    two = labelled([3, 7], of_levels, (2, 2, 2))
    assert Neighbours(two, 1).votes(np.array([[1, 0, -5000, 0, 0.02, 0]], np.float32)) == [(3, 1.0)]


def test_one_class_and_no_instance_vote_on_nothing():
    asked = np.array([[1.0, 0.0]], np.float32)
    assert Neighbours(labelled([3, 3], [[1, 0], [0, 1]]), 5).votes(asked) == [None]
    empty = LabelledInstances(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), np.array([0]))
    assert Neighbours(empty, 5).votes(np.zeros((2, 4), np.float32)) == [None, None]


def test_a_class_without_labelled_instances_gets_no_vote():
    mask = np.zeros((40, 50), bool)
    mask[3:9, 4:20] = True
    known, unknown = (label_from_mask(mask, category, 0.5, Decision.TEACHER) for category in (7, 5))
    row = ImageLabels.of_instances(1, "1.png", 50, 40, (known, unknown))
    voted = Neighbours(SIDES, 3).voted(row, np.array([[1, 0], [1, 0]], np.float32))
    assert voted.instances == (replace(known, class_vote=3, class_agreement=1.0), unknown)


def test_the_file_gives_back_what_was_written(tmp_path):
    SIDES.write(tmp_path / "file.npz")
    read = LabelledInstances.read(tmp_path / "file.npz")
    for name in ("category_ids", "features", "channels"):
        np.testing.assert_array_equal(getattr(read, name), getattr(SIDES, name))
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]


class FakePredictor:
    """Gives maps of known values: 8 cells of 4 pixels in a row, of which the image fills 6, and half as many."""

    def feature_levels(self, image_rgb: np.ndarray) -> FeatureLevels:
        fine = torch.arange(8.0).reshape(1, 1, 1, 8).repeat(1, 2, 2, 1)
        fine[:, 1] *= 10
        coarse = torch.arange(4.0).reshape(1, 1, 1, 4)
        return FeatureLevels((fine, coarse), (1.0, 0.75))


@pytest.mark.parametrize(
    ("columns", "fine", "coarse"),
    [((4, 8), 1.0, 0.0), ((0, 24), 2.5, 1.0), ((2, 8), (0 * 2 + 1 * 4) / 6, 0.0), ((20, 24), 5.0, 2.0)],
)
def test_features_are_means_over_the_part_of_each_cell_that_a_mask_fills(columns, fine, coarse):
    mask = np.zeros((8, 24), bool)
    mask[:, slice(*columns)] = True
    ((first, second),) = mask_features(FakePredictor(), np.zeros((8, 24, 3), np.uint8), [encode_mask(mask)])
    np.testing.assert_allclose(first, [fine, 10 * fine], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, [coarse], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_levels_are_those_of_the_detector(tmp_path, family):
    published = read_published(publish_tiny(tmp_path / family, family, resized=True))
    image_rgb = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    levels = Predictor(published, "cpu", "fp32", 1).feature_levels(image_rgb)
    assert levels.shown_hw == (pytest.approx(69 / 96), 1.0)
    sides = [features.shape[-1] for features in levels.maps]
    assert len(sides) >= 4
    assert sides == sorted(sides, reverse=True)
    structural, _ = Predictor(published, "cpu", "fp32", 1).structural_features(image_rgb)
    torch.testing.assert_close(levels.maps[0], structural)
    assert build_published(published) is not None


@pytest.mark.slow
def test_labelled_instances_are_those_of_the_file_without_crowds(tmp_path, monkeypatch):
    tiny = tiny_coco(tmp_path, images=3, instances=3)
    tiny.content["annotations"][0] |= {"iscrowd": 1}
    write_json(tiny.annotations, tiny.content)
    (tiny.image_root / tiny.content["images"][1]["file_name"]).write_bytes(b"no image")
    dataset, told = read_coco(tiny.annotations), []
    detector = DetectorChoice(publish_tiny(tmp_path / "model", "mask_rcnn"), "cpu", "fp32", 1)
    found = labelled_instances(detector, dataset, tiny.image_root, told.append)
    first, _, third = (dataset.instances(image.id) for image in dataset.images)
    assert sorted(found.category_ids.tolist()) == sorted(each.category_id for each in (*first, *third))
    assert len(first) == 2
    assert found.features.shape == (5, found.channels.sum())
    assert np.isfinite(found.features).all()
    assert len(told) == 1
    assert told[0].endswith("its instances check no class")
    monkeypatch.setattr(class_neighbours, "_MOST_OF_A_CLASS", 1)
    few = labelled_instances(detector, dataset, tiny.image_root, told.append)
    assert len(set(few.category_ids.tolist())) == len(few.category_ids)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return publish_tiny(tmp_path_factory.mktemp("models") / "teacher", "mask_rcnn")


def checked_store(tmp_path: Path, model: Path, name: str, *overrides: str) -> LabelStore:
    context = context_of(tmp_path, NOISE, overrides)
    shutil.copy(tmp_path / "annotations.json", context.split_folder / "labelled.json")
    given = replace(context, folder=folder(tmp_path / name), results={"train-teacher": model})
    summary = stages.predict.run(given)
    store = LabelStore.open(tmp_path / name / LABELS)
    if "student.class_check=off" not in overrides:
        assert summary["doubted classes"] == int((store.class_doubts() >= np.float32(0.5)).sum())
    return store


@pytest.mark.slow
def test_labels_get_votes_which_change_nothing_else(tmp_path, model, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    settings = ("student.class_agreement=0.5", "student.class_neighbours=3")
    plain = checked_store(tmp_path, model, "plain", "student.class_check=off")
    store = checked_store(tmp_path, model, "checked", "student.class_check=flag", *settings)
    for before, after in zip(plain, store, strict=True):
        for one, other in zip(before.instances, after.instances, strict=True):
            assert other.class_vote in (3, 7)
            assert other.class_agreement in [float(np.float32(wins / 3)) for wins in (1, 2, 3)]
            assert replace(other, class_vote=None, class_agreement=None) == one
    assert np.isfinite(store.class_doubts()).any()
    assert [path.name for path in (tmp_path / "checked").iterdir()] == [LABELS]
    monkeypatch.setattr(predicting, "IMAGES_PER_SHARD", 2)
    again = checked_store(
        tmp_path, model, "again", "student.class_check=drop", *settings, "compute.batch_images=4", "compute.workers=1"
    )
    assert again.attributes.digest == store.attributes.digest


@pytest.mark.slow
def test_an_interrupted_check_uses_the_features_that_it_had(tmp_path, model, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    settings = ("student.class_check=flag", "student.class_agreement=0.5")
    whole = checked_store(tmp_path, model, "whole", *settings)
    real, made = PredictWork.compute, []

    def stopping(self, shard):
        if not made:
            made.append(self.checked_by.path.stat().st_mtime_ns)
            raise KeyboardInterrupt
        made.append(self.checked_by.path.stat().st_mtime_ns)
        return real(self, shard)

    monkeypatch.setattr(PredictWork, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        checked_store(tmp_path, model, "again", *settings)
    again = checked_store(tmp_path, model, "again", *settings)
    assert len(set(made)) == 1
    assert again.attributes.digest == whole.attributes.digest
