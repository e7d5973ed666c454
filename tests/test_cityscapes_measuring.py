"""The instance AP of Cityscapes from a label store and label images, as `evaluate` measures it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.cityscapes import CLASSES, CityscapesSettings, convert_cityscapes
from pipeline.errors import DatasetError
from pipeline.evaluation import measuring
from pipeline.evaluation.cityscapes_measuring import CityscapesTruth, measure_cityscapes
from pipeline.evaluation.models import MeasuredModel
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from tests.cityscapes_miniatures import HEIGHT, WIDTH, miniatures, recorded_figures
from tests.test_cityscapes import add_picture
from tests.tiny_coco import tiny_coco


@dataclass(frozen=True)
class Street:
    """A converted miniature of Cityscapes, its label images, and a store of detections on it."""

    annotations: Path
    label_images: Path
    store: LabelStore

    @property
    def dataset(self) -> CocoDataset:
        return read_coco(self.annotations)


def street(folder: Path, seed: int) -> Street:
    rows = []
    for number, image in enumerate(miniatures(seed), start=1):
        name = f"munster_{number:06}_000019"
        add_picture(folder / "root", "val", name, image.labels)
        instances = [label_from_mask(mask, *found, Decision.TEACHER) for *found, mask in image.detections]
        file_name = f"munster/{name}_leftImg8bit.png"
        rows.append(ImageLabels.of_instances(number, file_name, WIDTH, HEIGHT, tuple(instances)))
    settings = CityscapesSettings(splits=("val",), size_wh_px=(WIDTH, HEIGHT))
    convert_cityscapes(folder / "root", folder, settings)
    dataset = read_coco(folder / "val.json")
    write_label_store(folder / "labels.zarr", rows, dataset.categories, {})
    return Street(folder / "val.json", folder / "root/gtFine/val", LabelStore.open(folder / "labels.zarr"))


@pytest.mark.parametrize("seed", list(recorded_figures())[:3])
def test_detections_of_a_store_measure_as_with_cityscapesscripts(tmp_path: Path, seed: int) -> None:
    made = street(tmp_path, seed)
    result = measure_cityscapes(made.store, made.dataset, CityscapesTruth.of(made.dataset, made.label_images))
    expected = recorded_figures()[seed]
    assert [each.name for each in result.classes] == list(CLASSES.values())
    known = []
    for each in result.classes:
        values = expected[each.name]
        if values[0] is None:
            assert (each.ap, each.ap_50) == (None, None)
        else:
            known.append(values)
            assert (each.ap, each.ap_50) == (pytest.approx(np.mean(values)), pytest.approx(values[0]))
    assert result.ap == pytest.approx(np.mean(known))
    assert result.ap_50 == pytest.approx(np.mean([values[0] for values in known]))


def test_an_image_that_failed_has_no_detections(tmp_path: Path) -> None:
    made = street(tmp_path, 0)
    failed = [ImageLabels.of_failure(row.image_id, row.file_name, "cut off") for row in made.store]
    write_label_store(tmp_path / "failed.zarr", failed, made.dataset.categories, {})
    store = LabelStore.open(tmp_path / "failed.zarr")
    result = measure_cityscapes(store, made.dataset, CityscapesTruth.of(made.dataset, made.label_images))
    assert result.ap == 0


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    made = street(tmp_path / "street", 0)
    (first, *_) = made.dataset.images
    missing = made.label_images / first.file_name.replace("_leftImg8bit.png", "_gtFine_instanceIds.png")
    missing.unlink()
    with pytest.raises(DatasetError, match=r"image 1: has no label image .*munster_000001_000019_gtFine"):
        CityscapesTruth.of(made.dataset, made.label_images)
    other = read_coco(tiny_coco(tmp_path / "other", images=1).annotations)
    with pytest.raises(DatasetError) as caught:
        CityscapesTruth.of(other, made.label_images)
    told = [str(problem) for problem in caught.value.problems]
    assert told == [
        "category 3: 'category 3' is not among the classes of Cityscapes: person, rider, car, truck, bus, train, "
        "motorcycle, bicycle",
        "category 7: 'category 7' is not among the classes of Cityscapes: person, rider, car, truck, bus, train, "
        "motorcycle, bicycle",
        "image 1: 0001.png is not an image of Cityscapes: its name does not end in _leftImg8bit.png",
    ]


def test_a_damaged_label_image_is_named(tmp_path: Path) -> None:
    made = street(tmp_path, 0)
    truth = CityscapesTruth.of(made.dataset, made.label_images)
    path = truth.label_images[1]
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=rf"{path.name}: .*damaged"):
        measure_cityscapes(made.store, made.dataset, truth)


def test_evaluate_measures_it_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = street(tmp_path, 0)

    def label(_what: str, _images: object, _labeller: object, store: object, _execution: object) -> None:
        shutil.copytree(made.store.path, tmp_path / "result/store.zarr")

    monkeypatch.setattr(measuring, "label_images", label)
    monkeypatch.setattr(
        measuring, "read_published", lambda _: type("Card", (), {"card": type("Of", (), {"categories": ()})})
    )
    figures = []
    for folder in (None, made.label_images):
        shutil.rmtree(tmp_path / "result", ignore_errors=True)
        model = MeasuredModel("train-teacher", "teacher", 1, "detections/x.json", tmp_path / "result/store.zarr")
        (result,) = measuring.measure_models(
            [(model, tmp_path)],
            (made.annotations, tmp_path),
            tmp_path / "result",
            EvaluateSettings(cityscapes=folder),
            {},
            Execution(ComputeSettings()),
        )
        figures.append(None if result.cityscapes is None else result.cityscapes.ap)
    assert figures[0] is None
    assert figures[1] is not None
    assert not math.isnan(figures[1])
