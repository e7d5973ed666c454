"""Compares two sets of labels of the same images, such as the teacher's and the refined labels."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import StoreError
from pipeline.labels.label_source import LabelSource
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.matching import best_pairs
from pipeline.masks.overlap import rle_ious

MATCH_MIN_IOU = 0.1
"""Two masks with a smaller IoU count as two objects, not as one object drawn differently."""

IOU_EDGES = (MATCH_MIN_IOU, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Lower edges of the bins in which matched pairs are counted; the last bin is for identical masks."""


@dataclass
class ScoreChange:
    """By how much a score differs between two labels of an object. pairs: those in which both scores are known."""

    pairs: int = 0
    difference_sum: float = 0.0

    def add(self, first: float | None, second: float | None) -> None:
        """Count a pair, unless a score is not known."""
        if first is not None and second is not None:
            self.pairs += 1
            self.difference_sum += abs(second - first)

    @property
    def mean(self) -> float:
        """Return the mean absolute difference; NaN without pairs."""
        return self.difference_sum / self.pairs if self.pairs else float("nan")


@dataclass
class LabelDiff:
    """The changes from a first store to a second, counted image by image; instances of one category match by mask.

    images: in both stores; only_first, only_second: images in one of them.
    statuses: the number of images by their two statuses, where these differ.
    matched: pairs of instances; added, removed: instances of one store without a partner in the other.
    iou_counts: matched pairs by IoU, a bin for each edge of `IOU_EDGES`.
    decisions: the number of matched pairs by their two decisions, equal ones included.
    scores, mask_scores: by how much these differ, over the matched pairs in which both are known.
    """

    images: int = 0
    only_first: int = 0
    only_second: int = 0
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    matched: int = 0
    added: int = 0
    removed: int = 0
    iou_counts: list[int] = field(default_factory=lambda: [0] * len(IOU_EDGES))
    iou_sum: float = 0.0
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    scores: ScoreChange = field(default_factory=ScoreChange)
    mask_scores: ScoreChange = field(default_factory=ScoreChange)

    def add(self, first: ImageLabels, second: ImageLabels) -> None:
        """Count an image that both stores have."""
        self.images += 1
        if first.status is not second.status:
            self.statuses[str(first.status), str(second.status)] += 1
        pairs = list(match_instances(first, second))
        for index, other_index, iou in pairs:
            self.iou_sum += iou
            self.iou_counts[bisect_right(IOU_EDGES, iou) - 1] += 1
            one, other = first.instances[index], second.instances[other_index]
            self.decisions[str(one.decision), str(other.decision)] += 1
            self.scores.add(one.score, other.score)
            self.mask_scores.add(one.mask_score, other.mask_score)
        self.matched += len(pairs)
        self.removed += len(first.instances) - len(pairs)
        self.added += len(second.instances) - len(pairs)

    @property
    def mean_iou(self) -> float:
        """Return the mean IoU of the matched pairs; NaN where nothing matched."""
        return self.iou_sum / self.matched if self.matched else float("nan")

    @property
    def dropped(self) -> int:
        """Count the matched instances that only the second store dropped."""
        dropped = str(Decision.DROPPED)
        return sum(count for (old, new), count in self.decisions.items() if new == dropped and old != dropped)


def diff(first: LabelSource, second: LabelSource) -> LabelDiff:
    """Compare two sets of labels image by image; raise StoreError for an id that names another image in the second."""
    difference = LabelDiff()
    for labels, other in _side_by_side(first, second):
        if other is None:
            difference.only_first += 1
            continue
        _require_same_image(first, labels, second, other)
        difference.add(labels, other)
    difference.only_second = len(second) - difference.images
    return difference


def _side_by_side(first: LabelSource, second: LabelSource) -> Iterator[tuple[ImageLabels, ImageLabels | None]]:
    """Yield every image of the first with that of the second; None where the second does not have it.

    Images that follow each other in both are read in order, which takes a fraction of the time of one after the other.
    """
    following = enumerate(second)
    place, other = next(following, (len(second), None))
    for labels in first:
        if other is None or other.image_id != labels.image_id:
            position = second.find(labels.image_id)
            if position is None or position < place:
                yield labels, None if position is None else second[position]
                continue
            while place < position:
                place, other = next(following)
        yield labels, other
        place, other = next(following, (len(second), None))


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
        f"{'mean change of score':<24}{difference.scores.mean:>12.4f}",
        f"{'  of mask score':<24}{difference.mask_scores.mean:>12.4f}",
    ]
    uppers = (*IOU_EDGES[1:], None)
    for low, high, count in zip(IOU_EDGES, uppers, difference.iou_counts, strict=True):
        label = "identical" if high is None else f"{low:.2f} to {high:.2f}"
        share = count / difference.matched if difference.matched else 0.0
        lines.append(f"{_line(f'  IoU {label}', count)}  {share:7.1%}")
    return "\n".join(lines)


def _require_same_image(first: LabelSource, labels: ImageLabels, second: LabelSource, other: ImageLabels) -> None:
    sized = bool(labels.instances and other.instances)  # failed images may have no known size
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
