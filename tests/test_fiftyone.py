"""FiftyOne opens exported labels with its COCO importer, as docs/formats.md shows, where FiftyOne is installed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.labels.coco_export import export_dataset
from pipeline.labels.rows import Decision, Status
from tests.tiny_labels import HEIGHT, WIDTH, tiny_row, tiny_store

DOC = (Path(__file__).parent.parent / "docs" / "formats.md").read_text(encoding="utf-8")
ARGUMENTS = {"label_types": "segmentations", "include_id": True, "extra_attrs": True}
"""The arguments of the importer that decide what is read; the page names the same."""


def test_the_page_names_the_arguments_that_are_tested():
    (block,) = re.findall(r"```python\nimport fiftyone as fo\n.*?```", DOC, re.DOTALL)
    for name, value in ARGUMENTS.items():
        assert f"{name}={value!r}".replace("'", '"') in block


@pytest.mark.slow
def test_masks_scores_and_measures_arrive(tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    coco = pytest.importorskip("fiftyone.utils.coco")
    rows = [tiny_row(image_id, soft_masks=False) for image_id in range(10, 20)]
    export_dataset(tiny_store(tmp_path / "labels.zarr", rows), tmp_path / "labels.json")
    (tmp_path / "images" / "folder").mkdir(parents=True)
    for row in rows:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / row.file_name)
    names = {3: "cat", 7: "Hündin"}
    importer = coco.COCODetectionDatasetImporter(
        data_path=str(tmp_path / "images"), labels_path=str(tmp_path / "labels.json"), **ARGUMENTS
    )
    with importer:
        found = {labels["coco_id"]: labels.get("segmentations") for _, _, labels in importer}
    assert set(found) == {row.image_id for row in rows if row.status is not Status.FAILED}
    for row in rows:
        kept = [each for each in row.instances if each.decision is not Decision.DROPPED]
        detections = found[row.image_id].detections if kept else []
        assert len(detections) == len(kept)
        for instance, detection in zip(kept, detections, strict=True):
            left, top, right, bottom = (int(value) for value in instance.box_xyxy)
            assert np.array_equal(detection.mask, row.mask(instance)[top:bottom, left:right])
            assert detection.label == names[instance.category_id]
            assert detection.confidence == pytest.approx(instance.score)
            assert detection["decision"] == instance.decision
            measured = {name: detection[name] for name in ("agreement", "predicted_iou") if name in detection}
            expected = {"agreement": instance.agreement, "predicted_iou": instance.predicted_iou}
            known = {name: pytest.approx(value) for name, value in expected.items() if value is not None}
            assert measured == known
