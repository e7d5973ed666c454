"""Compute the boxes and areas that a COCO file lacks; everything else in it stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pipeline.coco.checking import CocoReport, check_coco
from pipeline.coco.json_text import read_json_object
from pipeline.coco.segmentation import RleJson, SegmentationError, decode_segmentation, require_usable, to_rle
from pipeline.files.scratch import scratch_beside
from pipeline.files.writing import open_atomically, refuse_existing
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xywh, compressed_counts_problems

_ABSENT = (b"null", b"[]")


class _SizedImage(msgspec.Struct):
    id: int
    width: int
    height: int


@dataclass(frozen=True)
class Repaired:
    """What the checks say of the repaired content, and how many boxes and areas were computed.

    The file is written only if `report` has no errors; bad images are no reason not to write it.
    """

    report: CocoReport
    boxes: int
    areas: int


def repair_coco(
    path: Path,
    output: Path,
    image_root: Path | None = None,
    *,
    annotations_required: bool = True,
    decode_pixels: bool = False,
) -> Repaired:
    """Write a copy of a COCO file in which every annotation has the box and the area of its mask, if it had none.

    The other parameters are those of `check_coco`.
    """
    refuse_existing([output])
    top = read_json_object(path)
    added = {"bbox": 0, "area": 0}
    if "annotations" in top:
        top["annotations"] = _filled(top, added)
    with scratch_beside(output) as folder:
        aside = folder / output.name
        aside.write_bytes(b"{\n" + b",\n".join(_lines(top)) + b"\n}\n")
        report = check_coco(aside, image_root, annotations_required=annotations_required, decode_pixels=decode_pixels)
        if not report.errors:
            with open_atomically(output) as file:
                file.write(aside.read_bytes())
    return Repaired(replace(report, path=path if report.errors else output), added["bbox"], added["area"])


def _lines(top: Mapping[str, msgspec.Raw]) -> Iterator[bytes]:
    for key, text in top.items():
        yield msgspec.json.encode(key) + b":" + bytes(text)


def _filled(top: Mapping[str, msgspec.Raw], added: dict[str, int]) -> msgspec.Raw:
    """Return the annotations with what they lack, as far as their masks are usable; count what is added, by field."""
    try:
        annotations = msgspec.json.decode(top["annotations"], type=list[dict[str, msgspec.Raw]])
        images = {image.id: image for image in msgspec.json.decode(top.get("images", b""), type=list[_SizedImage])}
    except ValueError:
        return top["annotations"]  # the check says what is wrong
    for annotation in annotations:
        missing = [field for field in added if bytes(annotation.get(field, b"null")) in _ABSENT]
        rle = _mask(annotation, images) if missing else None
        if rle is None:
            continue
        computed = {"bbox": box_xywh(rle), "area": area_px(rle)}
        for field in missing:
            annotation[field] = msgspec.Raw(msgspec.json.encode(computed[field]))
            added[field] += 1
    return msgspec.Raw(b"[\n" + b",\n".join(map(msgspec.json.encode, annotations)) + b"]")


def _mask(annotation: Mapping[str, msgspec.Raw], images: Mapping[int, _SizedImage]) -> CompressedRle | None:
    try:
        image = images[msgspec.json.decode(annotation["image_id"], type=int)]
        segmentation = decode_segmentation(annotation["segmentation"])
        require_usable(segmentation, image.width, image.height)
    except (KeyError, ValueError, SegmentationError):
        return None
    counts = segmentation.counts if isinstance(segmentation, RleJson) else None
    if isinstance(counts, str) and compressed_counts_problems([counts], [image.width * image.height])[0] is not None:
        return None
    return to_rle(segmentation, image.width, image.height)
