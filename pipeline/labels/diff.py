"""What differs between two stores of labels of the same images, such as the teacher's and the refined."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.errors import StoreError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.matching import best_pairs
from pipeline.masks.overlap import rle_ious

MATCH_MIN_IOU = 0.1
"""With less than this in common, two masks are rather two objects than one drawn differently."""

IOU_EDGES = (MATCH_MIN_IOU, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Lower edges of the classes that matched pairs are counted in; the last is of identical masks."""


@dataclass(frozen=True)
class LabelDiff:
    """What differs from a first store to a second; instances of one category are matched by mask.

    images: in both stores; only_first, only_second: images in one of them.
    statuses: how many images have which two statuses, where they differ.
    matched: pairs of instances; added, removed: instances of one store without a partner in the other.
    iou_counts: matched pairs by IoU, one class an edge of `IOU_EDGES`. mean_iou: NaN where nothing matched.
    decisions: how many matched pairs have which two decisions, equal ones included.
    """

    images: int
    only_first: int
    only_second: int
    statuses: Mapping[tuple[str, str], int]
    matched: int
    added: int
    removed: int
    iou_counts: tuple[int, ...]
    mean_iou: float
    decisions: Mapping[tuple[str, str], int]

    @property
    def dropped(self) -> int:
        """Count the matched instances that only the second store dropped."""
        dropped = str(Decision.DROPPED)
        return sum(count for (old, new), count in self.decisions.items() if new == dropped and old != dropped)


def diff(first: LabelStore, second: LabelStore) -> LabelDiff:
    """Compare two stores image by image; StoreError where an id is not of the same image in both."""
    positions = {image_id: position for position, image_id in enumerate(second.image_ids.tolist())}
    tally = _Tally()
    only_first = 0
    for labels in first:
        position = positions.pop(labels.image_id, None)
        if position is None:
            only_first += 1
            continue
        other = second[position]
        _require_same_image(first, labels, second, other)
        tally.add(labels, other)
    return LabelDiff(
        images=len(first) - only_first,
        only_first=only_first,
        only_second=len(positions),
        statuses=dict(tally.statuses),
        matched=tally.matched,
        added=tally.added,
        removed=tally.removed,
        iou_counts=tuple(tally.iou_counts),
        mean_iou=tally.iou_sum / tally.matched if tally.matched else float("nan"),
        decisions=dict(tally.decisions),
    )


def match_instances(first: ImageLabels, second: ImageLabels) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of instances of one category, the most alike first: index in first, index in second, IoU."""
    ious = rle_ious([first.rle(each) for each in first.instances], [second.rle(each) for each in second.instances])
    of_first, of_second = (
        np.array([each.category_id for each in labels.instances], np.int64) for labels in (first, second)
    )
    ious[of_first[:, None] != of_second[None, :]] = 0
    for row, column in best_pairs(ious, MATCH_MIN_IOU):
        yield row, column, float(ious[row, column])


def diff_table(difference: LabelDiff, names: tuple[str, str] = ("first", "second")) -> str:
    """Return the difference as lines of text."""
    first, second = names
    lines = [
        _line("images in both", difference.images),
        _line(f"images only in {first}", difference.only_first),
        _line(f"images only in {second}", difference.only_second),
        *(_line(f"  {old} -> {new}", count) for (old, new), count in sorted(difference.statuses.items())),
        _line("instances matched", difference.matched),
        _line(f"instances only in {first}", difference.removed),
        _line(f"instances only in {second}", difference.added),
        *(_line(f"  {old} -> {new}", count) for (old, new), count in sorted(difference.decisions.items())),
        f"{'mean IoU of matched':<24}{difference.mean_iou:>12.4f}",
    ]
    uppers = (*IOU_EDGES[1:], None)
    for low, high, count in zip(IOU_EDGES, uppers, difference.iou_counts, strict=True):
        label = "identical" if high is None else f"{low:.2f} to {high:.2f}"
        share = count / difference.matched if difference.matched else 0.0
        lines.append(f"{_line(f'  IoU {label}', count)}  {share:7.1%}")
    return "\n".join(lines)


class _Tally:
    """Counts, one image at a time, so that stores of any size are compared in the same memory."""

    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, str]] = Counter()
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.iou_counts = [0] * len(IOU_EDGES)
        self.iou_sum = 0.0
        self.matched = self.added = self.removed = 0

    def add(self, first: ImageLabels, second: ImageLabels) -> None:
        if first.status is not second.status:
            self.statuses[str(first.status), str(second.status)] += 1
        matched = 0
        for index, other_index, iou in match_instances(first, second):
            matched += 1
            self.iou_sum += iou
            self.iou_counts[bisect_right(IOU_EDGES, iou) - 1] += 1
            pair = (first.instances[index].decision, second.instances[other_index].decision)
            self.decisions[str(pair[0]), str(pair[1])] += 1
        self.matched += matched
        self.removed += len(first.instances) - matched
        self.added += len(second.instances) - matched


def _require_same_image(first: LabelStore, labels: ImageLabels, second: LabelStore, other: ImageLabels) -> None:
    sized = bool(labels.instances and other.instances)  # others may have failed before their size was known
    ours, theirs = (
        f"{each.file_name!r}" + (f" of {each.width}x{each.height}" if sized else "") for each in (labels, other)
    )
    if ours != theirs:
        raise StoreError(
            f"image {labels.image_id} is {ours} in {first.path}, but {theirs} in {second.path}: "
            "the stores are of different data sets."
        )


def _line(what: str, count: int) -> str:
    return f"{what:<24}{count:>12,}"
