"""Labels in the formats of other tools: read back by other means, they are what the store holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from shapely.geometry import shape

from pipeline.coco.checking import check_coco
from pipeline.coco.foreign import SourceFormat
from pipeline.coco.reading import read_coco
from pipeline.datasets.importing.reading import import_annotations
from pipeline.datasets.importing.source import ImportSettings
from pipeline.errors import DatasetError, ProblemsError, StageError
from pipeline.labels.exporting import trainer_folders
from pipeline.labels.exporting.export import Exported, ExportRequest, export_labels
from pipeline.labels.exporting.export_format import DataPart, ExportFormat
from pipeline.labels.label_source import CocoLabels
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, Status
from tests.tiny_labels import CATEGORIES, HEIGHT, WIDTH, tiny_row, tiny_store

# The first names are such that no file may have.
ROWS = [tiny_row(image_id) for image_id in range(10, 40)]
SEEN = [row for row in ROWS if row.status is not Status.FAILED]
KEPT = [(row, each) for row in ROWS for each in row.instances if each.decision is not Decision.DROPPED]


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> LabelStore:
    return tiny_store(tmp_path_factory.mktemp("export") / "labels.zarr", ROWS)


@pytest.fixture(scope="module")
def image_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for row in SEEN:
        (root / row.file_name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / row.file_name)
    return root


def export(labels, output: Path, format_: ExportFormat, **request) -> Exported:
    return export_labels(labels, ExportRequest(format_, output, **request))


@pytest.mark.parametrize("tolerance", [0, 0.5, 3])
def test_polygons_are_the_masks_and_their_loss_is_measured(labels, tmp_path, tolerance):
    path = tmp_path / "labels.json"
    written = export(labels, path, ExportFormat.COCO_POLYGONS, tolerance_px=tolerance)
    coco = COCO(path)
    annotations = coco.loadAnns(sorted(coco.anns))
    ious = []
    for (row, instance), annotation in zip(KEPT, annotations, strict=True):
        assert isinstance(annotation["segmentation"], list)
        drawn = coco.annToRLE(annotation)
        ious.append(coco_mask.iou([drawn], [row.rle(instance)], [0])[0, 0])
        assert (annotation["area"], annotation["bbox"]) == (coco_mask.area(drawn), coco_mask.toBbox(drawn).tolist())
        assert np.float32(annotation["score"]) == np.float32(instance.score)
    assert written.instances == written.loss.polygons == len(KEPT)
    assert written.loss.mean == pytest.approx(np.mean(ious))
    assert written.loss.worst == min(ious)
    if tolerance == 0:
        assert set(ious) == {1.0}
        assert written.loss.worst_at == ""
    elif tolerance == 3:
        row, instance = KEPT[int(np.argmin(ious))]
        assert min(ious) < 0.9
        assert written.loss.worst_at == f"{row.file_name}, instance {row.instances.index(instance) + 1}"
    assert not check_coco(path).errors


def test_polygons_leave_out_masks_without_a_pixel(tmp_path):
    row = next(row for row in SEEN if row.instances)
    empty = replace(
        row.instances[0], rle_counts=coco_mask.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))["counts"]
    )
    empty = replace(empty, area=0, box_xyxy=(0, 0, 0, 0), decision=Decision.TEACHER, soft_mask=None)
    store = tiny_store(tmp_path / "a.zarr", [replace(row, instances=(empty, *row.instances))])
    for format_ in (ExportFormat.COCO_POLYGONS, ExportFormat.YOLO_SEG, ExportFormat.GEOJSON):
        kept = sum(each.decision is not Decision.DROPPED for each in row.instances)
        assert export(store, tmp_path / format_, format_).instances == kept


def test_a_yolo_data_set_reads_back_as_the_masks(labels, image_root, tmp_path):
    folder = tmp_path / "yolo"
    written = export(labels, folder, ExportFormat.YOLO_SEG, images=image_root, tolerance_px=0)
    assert (written.images, written.instances, written.loss.worst) == (len(SEEN), len(KEPT), 1.0)
    assert yaml.safe_load((folder / "data.yaml").read_text()) == {
        "train": "train/images",
        "names": {0: "cat", 1: "Hündin"},
    }
    texts = {path.relative_to(folder / "train/labels").as_posix() for path in (folder / "train/labels").rglob("*.txt")}
    assert texts == {str(Path(row.file_name).with_suffix(".txt")) for row in SEEN}
    import_annotations(SourceFormat.YOLO_SEG, folder, tmp_path / "back.json", ImportSettings())
    dataset = read_coco(tmp_path / "back.json")
    masks = {
        image.file_name.removeprefix("train/images/"): [
            (dataset.category_by_id[each.category_id].name, dataset.mask(each).tobytes())
            for each in dataset.annotations_by_image[image.id]
        ]
        for image in dataset.images
    }
    names = {category.id: category.name for category in CATEGORIES}
    for row in SEEN:
        own = [each for each in row.instances if each.decision is not Decision.DROPPED]
        assert masks[row.file_name] == [(names[each.category_id], row.mask(each).tobytes()) for each in own]


def test_parts_are_added_to_one_folder_and_images_are_linked_or_copied(labels, image_root, tmp_path):
    folder = tmp_path / "yolo"
    export(labels, folder, ExportFormat.YOLO_SEG, images=image_root)
    export(labels, folder, ExportFormat.YOLO_SEG, images=image_root, part=DataPart.VALID, copy=True)
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert list(data.items())[:2] == [("train", "train/images"), ("val", "valid/images")]
    linked, copied = (folder / part / "images" / SEEN[0].file_name for part in ("train", "valid"))
    assert linked.is_symlink() and linked.resolve() == (image_root / SEEN[0].file_name).resolve()
    assert not copied.is_symlink() and copied.read_bytes() == linked.read_bytes()
    with pytest.raises(StageError, match="train is already there"):
        export(labels, folder, ExportFormat.YOLO_SEG, images=image_root)
    other = tiny_store(tmp_path / "b.zarr", ROWS[:1])
    text = (folder / "data.yaml").read_text()
    for changed in (text.replace("cat", "dog"), "- a", "a: [", "\0"):
        (folder / "data.yaml").write_text(changed)
        with pytest.raises(StageError, match="has the classes .*choose another folder"):
            export(other, folder, ExportFormat.YOLO_SEG, images=image_root, part=DataPart.TEST)
        assert (folder / "data.yaml").read_text() == changed
    assert not (folder / "test").exists()


@pytest.mark.parametrize("format_", [ExportFormat.COCO, ExportFormat.COCO_POLYGONS])
def test_a_coco_folder_has_the_images_beside_the_file_and_ids_from_1(labels, image_root, tmp_path, format_):
    folder = tmp_path / "rf"
    written = export(labels, folder, format_, images=image_root, include_dropped=True)
    path = folder / "train" / "_annotations.coco.json"
    report = check_coco(path, folder / "train")
    assert report.ok
    assert (report.images, report.instances, written.instances) == (len(SEEN), labels.instances, labels.instances)
    content = json.loads(path.read_text())
    assert [(each["id"], each["name"]) for each in content["categories"]] == [(1, "cat"), (2, "Hündin")]
    ids = [{3: 1, 7: 2}[each.category_id] for row in SEEN for each in row.instances]
    assert [each["category_id"] for each in content["annotations"]] == ids
    assert report.crowds == labels.attributes.decisions["dropped"]


@pytest.mark.parametrize("format_", [ExportFormat.COCO, ExportFormat.YOLO_SEG])
def test_missing_images_are_told_at_once_and_nothing_is_written(labels, image_root, tmp_path, format_):
    root = tmp_path / "some"
    for row in SEEN[2:]:
        (root / row.file_name).parent.mkdir(parents=True, exist_ok=True)
        (root / row.file_name).symlink_to(image_root / row.file_name)
    with pytest.raises(DatasetError) as caught:
        export(labels, tmp_path / "out", format_, images=root)
    assert [str(each) for each in caught.value.problems] == [f"{row.file_name}: no such file" for row in SEEN[:2]]
    assert not (tmp_path / "out").exists()


def test_images_that_would_share_a_text_file_are_refused(tmp_path):
    rows = [replace(SEEN[0], image_id=1, file_name="a.jpg"), replace(SEEN[1], image_id=2, file_name="a.png")]
    with pytest.raises(DatasetError, match=r"a\.png: and a\.jpg would have the same text file"):
        export(tiny_store(tmp_path / "a.zarr", rows), tmp_path / "out", ExportFormat.YOLO_SEG)


@pytest.mark.parametrize("format_", [ExportFormat.YOLO_SEG, ExportFormat.GEOJSON, ExportFormat.COCO])
def test_names_that_leave_the_folder_are_refused(tmp_path, format_):
    store = tiny_store(tmp_path / "a.zarr", [replace(SEEN[0], file_name="../../evil.jpg")])
    with pytest.raises(DatasetError, match="leaves the image folder"):
        export(store, tmp_path / "deep" / "er" / "out", format_)
    assert not list(tmp_path.rglob("evil*"))


def test_an_interrupted_export_leaves_no_part(labels, image_root, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_folders, "_lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(labels, tmp_path / "out", ExportFormat.YOLO_SEG, images=image_root)
    assert list((tmp_path / "out").iterdir()) == []


def test_geojson_has_a_valid_exact_outline_with_holes_for_each_instance(labels, tmp_path):
    written = export(labels, tmp_path / "geo", ExportFormat.GEOJSON, include_dropped=True)
    assert (written.images, written.instances, written.loss) == (len(SEEN), labels.instances, None)
    names = {category.id: category.name for category in CATEGORIES}
    kinds = set()
    for row in SEEN:
        content = json.loads((tmp_path / "geo" / f"{row.file_name}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        for instance, feature in zip(row.instances, content["features"], strict=True):
            geometry = shape(feature["geometry"])
            kinds.add(feature["geometry"]["type"])
            assert geometry.is_valid
            assert geometry.area == instance.area
            assert geometry.bounds == instance.box_xyxy
            properties = feature["properties"]
            assert properties["classification"] == {"name": names[instance.category_id]}
            assert properties["decision"] == instance.decision
            assert properties["measurements"]["score"] == pytest.approx(instance.score)
            assert properties["measurements"].get("agreement") == pytest.approx(instance.agreement)
    assert kinds == {"Polygon", "MultiPolygon"}
    assert export(labels, tmp_path / "kept", ExportFormat.GEOJSON).instances == len(KEPT)
    with pytest.raises(StageError, match="already there"):
        export(labels, tmp_path / "geo", ExportFormat.GEOJSON)


def test_parquet_has_everything_of_the_store(labels, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    written = export(labels, tmp_path / "tables", ExportFormat.PARQUET)
    assert (written.images, written.instances, written.loss) == (len(SEEN), labels.instances, None)
    images = parquet.read_table(tmp_path / "tables" / "images.parquet").to_pylist()
    assert [(each["image_id"], each["file_name"], each["status"], each["instances"]) for each in images] == [
        (row.image_id, row.file_name, row.status, len(row.instances)) for row in ROWS
    ]
    instances = parquet.read_table(tmp_path / "tables" / "instances.parquet").to_pylist()
    expected = [(row, each) for row in ROWS for each in row.instances]
    for found, (row, instance) in zip(instances, expected, strict=True):
        rle = {"size": [found["height"], found["width"]], "counts": found["rle_counts"].encode()}
        assert np.array_equal(coco_mask.decode(rle).astype(bool), row.mask(instance))
        assert (found["left"], found["top"], found["right"], found["bottom"]) == instance.box_xyxy
        for name in ("category_id", "decision", "area", "score", "mask_score", "agreement", "candidate"):
            assert found[name] == getattr(instance, name), name
        assert found["category"] == {3: "cat", 7: "Hündin"}[instance.category_id]


def test_parquet_without_its_library_says_what_to_install(labels, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(StageError, match=r"pip install 's4m\[parquet\]'"):
        export(labels, tmp_path / "tables", ExportFormat.PARQUET)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("format_", ExportFormat)
def test_a_coco_file_is_exported_as_a_store_is(labels, image_root, tmp_path, format_):
    if format_ is ExportFormat.PARQUET:
        pytest.importorskip("pyarrow")
    path = tmp_path / "labels.json"
    export(labels, path, ExportFormat.COCO, include_dropped=True)
    written = export(CocoLabels.open(path), tmp_path / "out", format_)
    expected = labels.instances if format_ is ExportFormat.PARQUET else len(KEPT)
    assert (written.images, written.instances) == (len(SEEN), expected)


@pytest.mark.parametrize(
    ("format_", "request_", "message"),
    [
        (ExportFormat.PARQUET, {"images": Path()}, "images: parquet has no images: leave them out"),
        (ExportFormat.COCO, {"images": Path("nowhere")}, "images: no such folder: nowhere"),
        (ExportFormat.YOLO_SEG, {"include_dropped": True}, "dropped: yolo-seg has no instances that trainers ignore"),
        (ExportFormat.COCO_POLYGONS, {"tolerance_px": -1}, "tolerance: must be 0 or more pixels, is -1"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, format_, request_, message):
    with pytest.raises(ProblemsError, match=message):
        ExportRequest(format_, tmp_path / "out", **request_)
