"""Makes the galleries of a report: instances before and after refinement, and composites, with captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.coco.paths import resolve_image_path
from pipeline.errors import ImageError
from pipeline.evaluation.results import InstanceChange
from pipeline.files.images import read_image
from pipeline.labels.drawing import Rgb, RgbImage, category_colours, paint, rescaled
from pipeline.labels.label_columns import DECISIONS, STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, Status
from pipeline.masks.windows import BoxXyxy
from pipeline.presentation import words
from pipeline.report.inline_images import PANEL_BYTES, WHOLE_IMAGE_BYTES, InlineImage, crop_around, inline

BEFORE: Final[Rgb] = (245, 158, 11)
AFTER: Final[Rgb] = (20, 184, 166)
_WHITE: Final[Rgb] = (255, 255, 255)
_PANEL_PX: Final = 352
"""The longer side of an image: twice its size on the page, for sharp screens."""
WHOLE_IMAGE_PX: Final = 480
FILL_SHARE: Final = 0.1
"""A low opacity, so that the object under the mask stays visible."""
_MOST_OF_ONE_IMAGE: Final = 2
_IMAGES_KEPT: Final = 8

Item = TypeVar("Item")


@dataclass(frozen=True)
class Card:
    """One entry of a gallery: images with captions, side by side, and facts about them."""

    images: tuple[tuple[str, InlineImage], ...]
    title: str
    facts: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Gallery:
    """Cards under a heading. unreadable: the number of cards left out because their images cannot be read."""

    key: str
    heading: str
    explanation: str
    cards: tuple[Card, ...]
    unreadable: int
    legend: tuple[tuple[str, str], ...]


class Round:
    """Draws the labels of one round before and after refinement, which have the same instances in the same order.

    It caches images, since neighbours in a list are often of one image.
    """

    def __init__(self, teacher: LabelStore, refined: LabelStore, image_root: Path, truth: CocoDataset | None) -> None:
        self.teacher = teacher
        self.refined = refined
        self.names = refined.attributes.names
        self._image_root = image_root
        self._truth = truth
        self._truth_by_id = {each.id: each for each in truth.annotations} if truth else {}
        self._read = lru_cache(_IMAGES_KEPT)(self._read_image)

    def panels(
        self, image_id: int, position: int, box_xyxy: BoxXyxy, name: str, truth_id: int | None
    ) -> tuple[tuple[str, InlineImage], ...]:
        """Draw the surroundings of an instance twice: with its mask before and after refinement."""
        image = self._read(image_id)
        x0, y0, x1, y1 = crop_around(box_xyxy, image.shape[1], image.shape[0])
        shown = []
        for store, caption, colour in ((self.teacher, "teacher", BEFORE), (self.refined, "refined", AFTER)):
            labels = store.by_id(image_id)
            canvas = rescaled(image[y0:y1, x0:x1], _PANEL_PX)
            mask = labels.mask(labels.instances[position])
            paint(canvas, mask[y0:y1, x0:x1], colour, dashed=False, fill_share=FILL_SHARE)
            if self._truth is not None and truth_id is not None:
                truth = self._truth.mask(self._truth_by_id[truth_id])
                paint(canvas, truth[y0:y1, x0:x1], _WHITE, dashed=True)
            shown.append((caption, inline(canvas, f"{name} in {labels.file_name}, {caption} mask", PANEL_BYTES)))
        return tuple(shown)

    def _read_image(self, image_id: int) -> RgbImage:
        labels = self.refined.by_id(image_id)
        return read_image(resolve_image_path(self._image_root, labels.file_name), (labels.width, labels.height))


MASK_LEGEND: Final = (("before", "teacher’s outline"), ("after", "refined outline"), ("truth", "truth, dashed"))


def changes(round_: Round, listed: Sequence[InstanceChange], limit: int, *, harmed: bool) -> Gallery:
    """Show the instances that refinement improved most, or harmed most."""
    sign = -1 if harmed else 1
    changed = (each for each in listed if sign * (each.iou_after - each.iou_before) > 0)
    cards, unreadable = made_cards(changed, limit, lambda change: _change_card(round_, change))
    if harmed:
        key, heading, explanation = "harmed", "Most harmed", "Where SAM moved the mask furthest away from the truth."
    else:
        key, heading, explanation = "improved", "Most improved", "Where SAM moved the mask closest to the truth."
    return Gallery(key, heading, explanation, cards, unreadable, MASK_LEGEND)


def disagreements(round_: Round, limit: int) -> Gallery:
    """Show instances with high scores whose masks SAM changed most, where SAM's mask was kept."""
    found = _disagreeing(round_.refined)
    cards, unreadable = made_cards(found, limit, lambda instance: _disagreement_card(round_, *instance))
    explanation = (
        "The teacher was sure of the object, SAM’s mask differs much from the teacher’s, and SAM’s mask was kept. "
        "These are found without truth: check them first when a student is worse than expected."
    )
    return Gallery("disagreements", "Strongest disagreements", explanation, cards, unreadable, MASK_LEGEND[:2])


def composites(folder: Path, store: LabelStore, limit: int) -> Gallery:
    """Show composites, evenly spread over all. folder: the result of the augment stage."""
    names = store.attributes.names
    colours = category_colours(names)
    usable = np.flatnonzero(store.column("images/status") != STATUSES.index(Status.FAILED))
    chosen = np.unique(np.linspace(0, len(usable) - 1, min(limit, len(usable))).round().astype(int))
    rows = [store[position] for position in usable[chosen].tolist()]
    cards, unreadable = made_cards(rows, limit, lambda row: _composite_card(folder, row, colours, names))
    shown = Counter(each.category_id for row in rows for each in row.instances)
    legend = tuple((f"#{r:02x}{g:02x}{b:02x}", names[each]) for each, (r, g, b) in colours.items() if shown[each])
    explanation = "Refined instances pasted into other unlabelled images, before the student’s colour jitter."
    return Gallery("composites", "ARP composites", explanation, cards, unreadable, legend)


def _change_card(round_: Round, change: InstanceChange) -> Card:
    name = round_.names[change.category_id]
    facts = [f"IoU {change.iou_before:.2f} → {change.iou_after:.2f}", *_scores(change.score, change.mask_score)]
    if change.decision is not Decision.SAM:
        facts.append(f"decision: {change.decision}")
    if change.truth_category_id != change.category_id:
        facts.append(f"truth: {round_.names[change.truth_category_id]}")
    images = round_.panels(change.image_id, change.position, change.box_xyxy, name, change.truth_id)
    return Card(images, name, tuple(facts), change.file_name)


def _disagreement_card(round_: Round, image_id: int, position: int) -> Card:
    labels = round_.refined.by_id(image_id)
    before, after = round_.teacher.by_id(image_id).instances[position], labels.instances[position]
    first, second = before.box_xyxy, after.box_xyxy
    box = (min(first[0], second[0]), min(first[1], second[1]), max(first[2], second[2]), max(first[3], second[3]))
    name = round_.names[after.category_id]
    facts = [f"agreement {after.agreement or 0.0:.2f}", *_scores(after.score, after.mask_score)]
    if after.predicted_iou is not None:
        facts.append(f"SAM expects {after.predicted_iou:.2f}")
    images = round_.panels(image_id, position, box, name, None)
    return Card(images, name, tuple(facts), labels.file_name)


def _scores(score: float, mask_score: float | None) -> list[str]:
    shown = [f"score {score:.2f}"]
    return shown if mask_score is None else [*shown, f"mask score {mask_score:.2f}"]


def _composite_card(folder: Path, row: ImageLabels, colours: Mapping[int, Rgb], names: Mapping[int, str]) -> Card:
    image = read_image(resolve_image_path(folder, row.file_name), (row.width, row.height))
    canvas = rescaled(image, WHOLE_IMAGE_PX)
    for instance in sorted(row.instances, key=lambda each: -each.area):
        dropped = instance.decision is Decision.DROPPED
        paint(canvas, row.mask(instance), colours[instance.category_id], dashed=dropped, fill_share=FILL_SHARE)
    counts = Counter(names[each.category_id] for each in row.instances)
    shown = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    images = (("", inline(canvas, f"composite {row.image_id}: {shown or 'no instances'}", WHOLE_IMAGE_BYTES)),)
    return Card(images, words.count(len(row.instances), "instance"), (shown,) if shown else (), row.file_name)


def _disagreeing(store: LabelStore) -> Iterator[tuple[int, int]]:
    """Yield image id and index of instances, those with the highest score * (1 - agreement) first, few of one image."""
    agreement = store.column("instances/agreement")
    taken = store.column("instances/decision") == DECISIONS.index(Decision.SAM)
    strength = np.where(taken & np.isfinite(agreement), store.column("instances/score") * (1 - agreement), 0)
    offsets = store.column("images/instance_offsets")
    of_image: Counter[int] = Counter()
    for instance in np.argsort(-strength, kind="stable").tolist():
        if strength[instance] <= 0:
            return
        image = int(np.searchsorted(offsets, instance, side="right")) - 1
        of_image[image] += 1
        if of_image[image] <= _MOST_OF_ONE_IMAGE:
            yield int(store.image_ids[image]), int(instance - offsets[image])


def made_cards(items: Iterable[Item], limit: int, make: Callable[[Item], Card]) -> tuple[tuple[Card, ...], int]:
    """Return the cards of the first items, and the number of items whose images cannot be read."""
    cards: list[Card] = []
    unreadable = 0
    for item in islice(items, limit):
        try:
            cards.append(make(item))
        except ImageError:
            unreadable += 1
    return tuple(cards), unreadable
