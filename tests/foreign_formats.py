"""Write the tiny COCO data in the formats of other tools, as these write them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.coco.foreign import SourceFormat
from pipeline.datasets.importing.reading import Imported, import_annotations
from pipeline.datasets.importing.source import ImportSettings
from pipeline.errors import DatasetError
from tests.tiny_coco import TinyCoco, run_lengths, write_json


def of_images(made: TinyCoco) -> Iterator[tuple[dict[str, Any], list[tuple[str, np.ndarray]]]]:
    """Each image with the classes and masks of its instances; later masks are cut out of earlier ones."""
    names = {each["id"]: each["name"] for each in made.content["categories"]}
    for image in made.content["images"]:
        own = [each for each in made.content["annotations"] if each["image_id"] == image["id"]]
        yield image, [(names[each["category_id"]], made.masks[each["id"]]) for each in own]


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, the last two excluded."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def corners(mask: np.ndarray) -> list[tuple[int, int]]:
    left, top, right, bottom = box(mask)
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def via_project(made: TinyCoco) -> dict[str, Any]:
    images = {}
    for image, instances in of_images(made):
        regions = []
        for name, mask in instances:
            xs, ys = zip(*corners(mask), strict=True)
            shape = {"name": "polygon", "all_points_x": list(xs), "all_points_y": list(ys)}
            regions.append({"shape_attributes": shape, "region_attributes": {"kind": name}})
        name = image["file_name"]
        images[f"{name}123"] = {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}
    options = {each["name"]: "" for each in made.content["categories"]}
    attributes = {"region": {"kind": {"type": "dropdown", "options": options}}, "file": {}}
    return {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": attributes}


def write_via(made: TinyCoco, folder: Path) -> Path:
    path = folder / "images" / "via.json"
    path.write_text(json.dumps(via_project(made)))
    return path


def labelme_file(image: dict[str, Any], shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image["file_name"],
        "imageData": None,
        "imageHeight": image["height"],
        "imageWidth": image["width"],
    }


def labelme_mask(name: str, mask: np.ndarray) -> dict[str, Any]:
    left, top, right, bottom = box(mask)
    png = io.BytesIO()
    Image.fromarray(mask[top:bottom, left:right]).save(png, format="PNG")
    return {
        "label": name,
        "points": [[left, top], [right - 1, bottom - 1]],
        "group_id": None,
        "shape_type": "mask",
        "mask": base64.b64encode(png.getvalue()).decode(),
    }


def labelme_folder(made: TinyCoco, shapes: list[dict], **changed) -> Path:
    image = made.content["images"][0]
    write_json(made.image_root / "0001.json", labelme_file(image, shapes) | changed)
    return made.image_root


def labelme_shape(points: list, kind: str | None = "polygon", label: object = "a", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind} | more


def write_labelme(made: TinyCoco, folder: Path) -> Path:
    for image, instances in of_images(made):
        shapes = []
        for index, (name, mask) in enumerate(instances):
            polygon = {"label": name, "points": corners(mask), "group_id": None, "shape_type": "polygon"}
            shapes.append(labelme_mask(name, mask) if index % 2 else polygon)
        path = folder / "images" / f"{Path(image['file_name']).stem}.json"
        path.write_text(json.dumps(labelme_file(image, shapes)))
    return folder / "images"


def write_yolo(made: TinyCoco, folder: Path) -> Path:
    target = folder / "yolo"
    (target / "images").mkdir(parents=True)
    (target / "labels" / "train").mkdir(parents=True)
    (folder / "images").rename(target / "images" / "train")
    names = [each["name"] for each in made.content["categories"]]
    lines = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    (target / "data.yaml").write_text(f"path: .\ntrain: images/train\nval:\nnames:\n{lines}")
    for image, instances in of_images(made):
        text = ""
        for name, mask in instances:
            shares = [f"{x / image['width']:.6f} {y / image['height']:.6f}" for x, y in corners(mask)]
            text += f"{names.index(name)} {' '.join(shares)}\n"
        (target / "labels" / "train" / f"{Path(image['file_name']).stem}.txt").write_text(text)
    return target


def instance_numbers(instances: list[tuple[str, np.ndarray]]) -> np.ndarray:
    numbers = np.zeros(instances[0][1].shape, np.uint8)
    for number, (_, mask) in enumerate(instances, start=1):
        numbers[mask] = number
    return numbers


def voc_xml(image: dict[str, Any], objects: list[tuple[str, tuple[int, int, int, int]]]) -> str:
    text = f"<annotation><filename>{image['file_name']}</filename>\n"
    for name, (left, top, right, bottom) in objects:
        inside = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        text += f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>\n"
    return f"{text}</annotation>\n"


def write_voc(made: TinyCoco, folder: Path) -> Path:
    target = folder / "voc"
    for name in ("SegmentationObject", "Annotations", "ImageSets/Segmentation"):
        (target / name).mkdir(parents=True)
    (folder / "images").rename(target / "JPEGImages")
    stems = []
    for image, instances in of_images(made):
        stem = Path(image["file_name"]).stem
        stems.append(stem)
        numbers = instance_numbers(instances)
        picture = Image.fromarray(numbers, mode="P")
        picture.putpalette([value for number in range(256) for value in (number, 255 - number, 40)])
        picture.save(target / "SegmentationObject" / f"{stem}.png")
        objects = [(name, box(numbers == number)) for number, (name, _) in enumerate(instances, start=1)]
        (target / "Annotations" / f"{stem}.xml").write_text(voc_xml(image, objects))
    (target / "ImageSets/Segmentation/train.txt").write_text("\n".join(stems[:-1]) + "\n")
    return target


def cvat_mask(name: str, mask: np.ndarray) -> str:
    left, top, right, bottom = box(mask)
    rle = ", ".join(map(str, run_lengths(mask[top:bottom, left:right].T)))
    return (
        f'<mask label="{name}" source="manual" occluded="0" rle="{rle}" left="{left}" top="{top}" '
        f'width="{right - left}" height="{bottom - top}" z_order="0"></mask>\n'
    )


def cvat_polygon(name: str, mask: np.ndarray, group: int = 0) -> str:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(mask))
    group_id = f' group_id="{group}"' if group else ""
    return f'<polygon label="{name}" source="manual" occluded="0" points="{points}" z_order="0"{group_id}></polygon>\n'


def cvat_text(made: TinyCoco, shapes: dict[str, str] | None = None) -> str:
    """The file of a task; shapes: those of images by name, in place of their polygons and masks."""
    labels = "".join(f"<label><name>{each['name']}</name></label>" for each in reversed(made.content["categories"]))
    text = f"<?xml version='1.0' encoding='utf-8'?>\n<annotations><version>1.1</version><meta><job><labels>{labels}"
    text += "</labels></job></meta>\n"
    for image, instances in of_images(made):
        size = f'width="{image["width"]}" height="{image["height"]}"'
        drawn = "".join((cvat_mask if index % 2 else cvat_polygon)(*each) for index, each in enumerate(instances))
        own = (shapes or {}).get(image["file_name"], drawn)
        text += f'<image id="{image["id"]}" name="{image["file_name"]}" {size}>\n{own}</image>\n'
    return text + "</annotations>\n"


def write_cvat(made: TinyCoco, folder: Path) -> Path:
    path = folder / "annotations.xml"
    path.write_text(cvat_text(made))
    return path


def write_mask_png(made: TinyCoco, folder: Path) -> Path:
    for image, instances in of_images(made):
        for category in {name for name, _ in instances}:
            numbers = instance_numbers([each for each in instances if each[0] == category]).astype(np.uint16) * 300
            path = folder / "masks" / category / f"{Path(image['file_name']).stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers).save(path)
    return folder


WRITERS = {
    SourceFormat.VIA: write_via,
    SourceFormat.LABELME: write_labelme,
    SourceFormat.YOLO_SEG: write_yolo,
    SourceFormat.VOC: write_voc,
    SourceFormat.CVAT: write_cvat,
    SourceFormat.MASK_PNG: write_mask_png,
}


def read(source_format: SourceFormat, path: Path, out: Path, **settings) -> Imported:
    return import_annotations(source_format, path, out, ImportSettings(**settings))


def problems(source_format: SourceFormat, path: Path, out: Path, **settings) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        read(source_format, path, out, **settings)
    assert not out.exists()
    return [str(problem) for problem in caught.value.problems]
