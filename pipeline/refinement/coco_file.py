"""Reads and writes COCO files whose masks are refined without an experiment.

Every annotation keeps its id, category, score and other keys. Its mask, box and area are those decided on; its key
`refinement` has the decision and its reason. Crowds, empty masks and annotations of images that cannot be used keep
their masks. Dropped instances are removed and listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.coco.model import CocoDataset
from pipeline.errors import DatasetError, Problem, StageError, some_of
from pipeline.files.writing import write_atomically
from pipeline.labels.dataset_rows import Scores, dataset_rows, without_ignored
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xywh

UNCHANGED = "unchanged"


@dataclass(frozen=True)
class RefinedFile:
    """The number of annotations by decision, and the reasons of failed images by file name."""

    decisions: Mapping[str, int]
    failures: Mapping[str, str]


def rows_to_refine(dataset: CocoDataset, scores: Mapping[int, Scores]) -> Iterator[ImageLabels]:
    """Yield the annotations to refine as teacher labels, image by image; `scores` by annotation id, else 1."""
    return map(without_ignored, dataset_rows(dataset, scores))


def read_scores(path: Path) -> dict[int, Scores]:
    """Read class scores and mask scores of a dataset's annotations by annotation id, of those that have any.

    Raise DatasetError with all that are not numbers from 0 to 1.
    """
    names = ("score", "mask_score")
    given = {each["id"]: {name: each[name] for name in names if name in each} for each in _read(path)["annotations"]}
    wrong = [
        Problem(f"annotation {key}, {name}", f"given {json.dumps(score)}; expected a number from 0 to 1")
        for key, scores in given.items()
        for name, score in scores.items()
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1
    ]
    if wrong:
        raise DatasetError(str(path), wrong)
    return {key: Scores(**scores) for key, scores in given.items() if scores}


def write_refined(source: Path, dataset: CocoDataset, refined: LabelStore, target: Path) -> RefinedFile:
    """Write the file with the refined masks; raise StageError, without a file, if no image could be used."""
    content = _read(source)
    decided: dict[int, InstanceLabel] = {}
    failures: dict[str, str] = {}
    for row in refined:
        if row.status is Status.FAILED:
            failures[row.file_name] = row.message
        else:
            ids = [each.id for each in dataset.instances(row.image_id) if area_px(dataset.rle(each)) > 0]
            decided |= dict(zip(ids, row.instances, strict=True))
    if failures and not decided:
        reasons = some_of([f"{name}: {reason}" for name, reason in failures.items()])
        raise StageError(f"no image with masks to refine could be used: {reasons}. Is it the right folder of images?")
    counts: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    dropped: list[int] = []
    for annotation in content["annotations"]:
        label = decided.get(annotation["id"])
        counts[str(label.decision) if label else UNCHANGED] += 1
        if label is None:
            reason = _why_unchanged(dataset, annotation, failures)
            kept.append(annotation | {"refinement": {"decision": UNCHANGED, "reason": reason}})
        elif label.decision is Decision.DROPPED:
            dropped.append(annotation["id"])
        else:
            image = dataset.image_by_id[annotation["image_id"]]
            kept.append(annotation | _refined_keys(label, image.height, image.width))
    content["annotations"] = kept
    content["refinement"] = {"decisions": dict(counts), "dropped_ids": dropped, "failed_images": failures}
    write_atomically(target, json.dumps(content, ensure_ascii=True) + "\n")
    return RefinedFile(dict(counts), failures)


def _why_unchanged(dataset: CocoDataset, annotation: Mapping[str, Any], failures: Mapping[str, str]) -> str:
    if annotation.get("iscrowd"):
        return "it is a crowd"
    failure = failures.get(dataset.image_by_id[annotation["image_id"]].file_name)
    return "its mask is empty" if failure is None else f"its image could not be used: {failure}"


def _refined_keys(instance: InstanceLabel, height: int, width: int) -> dict[str, Any]:
    rle: CompressedRle = {"size": [height, width], "counts": instance.rle_counts}
    measures = {name: getattr(instance, name) for name in ("predicted_iou", "stability", "agreement")}
    return {
        "segmentation": {"size": [height, width], "counts": instance.rle_counts.decode("ascii")},
        "bbox": list(box_xywh(rle)),
        "area": instance.area,
        "refinement": {
            "decision": str(instance.decision),
            **{name: round(value, 4) for name, value in measures.items() if value is not None},
        },
    }


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content
