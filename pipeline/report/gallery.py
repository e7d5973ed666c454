"""Galleries: instances before and after refinement, composites, each picture with what there is to say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoDataset
from pipeline.coco.paths import resolve_image_path
from pipeline.errors import ImageError
from pipeline.evaluation.results import InstanceChange
from pipeline.files.images import read_image
from pipeline.labels.drawing import Rgb, RgbImage, category_colours, paint
from pipeline.labels.label_columns import DECISIONS, STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, Status
from pipeline.masks.windows import BoxXyxy
from pipeline.report.pictures import InlinePicture, crop_around, enlarged, inline

BEFORE: Final[Rgb] = (245, 158, 11)
AFTER: Final[Rgb] = (20, 184, 166)
_WHITE: Final[Rgb] = (255, 255, 255)
_COMPOSITE_PX: Final = 480
_FILL_SHARE: Final = 0.1
"""Little: what matters here is where the outline runs, and the object under it is to be seen."""
_MOST_OF_ONE_IMAGE: Final = 2
_IMAGES_KEPT: Final = 8

Item = TypeVar("Item")


@dataclass(frozen=True)
class Card:
    """One thing to look at: pictures with captions, side by side, and what they show."""

    pictures: tuple[tuple[str, InlinePicture], ...]
    title: str
    facts: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Gallery:
    """Cards under a heading. unreadable: how many could not be shown, as their images cannot be read."""

    key: str
    heading: str
    explanation: str
    cards: tuple[Card, ...]
    unreadable: int
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Round:
    """The labels of one round before and after refinement, instance by instance in the same order."""

    teacher: LabelStore
    refined: LabelStore
    image_root: Path
    truth: CocoDataset | None


MASK_LEGEND: Final = (("before", "teacher’s outline"), ("after", "refined outline"), ("truth", "truth, dashed"))


def changes(round_: Round, listed: Sequence[InstanceChange], limit: int, *, harmed: bool) -> Gallery:
    """The instances that refinement changed most, for better or worse."""
    names = _names(round_.refined)
    draw = _Drawing(round_)
    sign = -1 if harmed else 1
    changed = (each for each in listed if sign * (each.iou_after - each.iou_before) > 0)
    cards, unreadable = _made(changed, limit, lambda change: _change_card(draw, change, names))
    if harmed:
        heading, explanation = "Most harmed", "Where SAM moved the mask furthest away from the truth."
    else:
        heading, explanation = "Most improved", "Where SAM brought the mask closest to the truth."
    return Gallery("harmed" if harmed else "improved", heading, explanation, cards, unreadable, MASK_LEGEND)


def disagreements(round_: Round, limit: int) -> Gallery:
    """Instances of sure teachers whose masks SAM changed most, and that were let through."""
    names = _names(round_.refined)
    draw = _Drawing(round_)
    found = _disagreeing(round_.refined)
    cards, unreadable = _made(found, limit, lambda place: _disagreement_card(draw, place, names))
    explanation = (
        "The teacher was sure of the object, yet SAM drew it quite differently, and SAM’s mask was taken. "
        "No truth is needed to find these: look here first when a student disappoints."
    )
    return Gallery("disagreements", "Strongest disagreements", explanation, cards, unreadable, MASK_LEGEND[:2])


def composites(folder: Path, store: LabelStore, limit: int) -> Gallery:
    """Composites of the augment stage, evenly spread over all. `folder`: the stage's result."""
    names = _names(store)
    colours = category_colours(names)
    usable = np.flatnonzero(store.column("images/status") != STATUSES.index(Status.FAILED))
    chosen = np.unique(np.linspace(0, len(usable) - 1, min(limit, len(usable))).round().astype(int))
    rows = [store[place] for place in usable[chosen].tolist()]
    cards, unreadable = _made(rows, limit, lambda row: _composite_card(folder, row, colours, names))
    shown = Counter(each.category_id for row in rows for each in row.instances)
    legend = tuple((f"#{r:02x}{g:02x}{b:02x}", names[each]) for each, (r, g, b) in colours.items() if shown[each])
    explanation = "Refined instances pasted into other unlabelled images, as the student sees them before jitter."
    return Gallery("composites", "ARP composites", explanation, cards, unreadable, legend)


class _Drawing:
    """Draws instances of a round. Images are kept: the best of a list often share one."""

    def __init__(self, round_: Round) -> None:
        self._round = round_
        self._read = lru_cache(_IMAGES_KEPT)(self._read_image)
        self._truth_by_id = {each.id: each for each in round_.truth.annotations} if round_.truth else {}

    def rows(self, image_id: int) -> tuple[ImageLabels, ImageLabels]:
        """An image's labels before and after."""
        return self._round.teacher.by_id(image_id), self._round.refined.by_id(image_id)

    def panels(
        self, image_id: int, position: int, box_xyxy: BoxXyxy, name: str, truth_id: int | None
    ) -> tuple[tuple[str, InlinePicture], ...]:
        """The place of an instance with its mask before, and again with its mask after."""
        image = self._read(image_id)
        x0, y0, x1, y1 = crop_around(box_xyxy, image.shape[1], image.shape[0])
        shown = []
        for labels, caption, colour in zip(self.rows(image_id), ("teacher", "refined"), (BEFORE, AFTER), strict=True):
            canvas = enlarged(image[y0:y1, x0:x1])
            paint(
                canvas,
                labels.mask(labels.instances[position])[y0:y1, x0:x1],
                colour,
                dashed=False,
                fill_share=_FILL_SHARE,
            )
            if truth_id is not None and (truth := self._truth(truth_id)) is not None:
                paint(canvas, truth[y0:y1, x0:x1], _WHITE, dashed=True)
            shown.append((caption, inline(canvas, f"{name} in {labels.file_name}, {caption} mask")))
        return tuple(shown)

    def _truth(self, truth_id: int) -> NDArray[np.bool_] | None:
        annotation = self._truth_by_id.get(truth_id)
        if annotation is None or self._round.truth is None:
            return None
        return self._round.truth.mask(annotation)

    def _read_image(self, image_id: int) -> RgbImage:
        labels = self._round.refined.by_id(image_id)
        path = resolve_image_path(self._round.image_root, labels.file_name)
        return read_image(path, (labels.width, labels.height))


def _change_card(draw: _Drawing, change: InstanceChange, names: Mapping[int, str]) -> Card:
    name = _name(names, change.category_id)
    facts = [f"IoU {change.iou_before:.2f} → {change.iou_after:.2f}", f"score {change.score:.2f}"]
    if change.decision is not Decision.SAM:
        facts.append(f"decision: {change.decision}")
    if change.truth_category_id != change.category_id:
        facts.append(f"truth: {_name(names, change.truth_category_id)}")
    pictures = draw.panels(change.image_id, change.position, change.box_xyxy, name, change.truth_id)
    return Card(pictures, name, tuple(facts), change.file_name)


def _disagreement_card(draw: _Drawing, place: tuple[int, int], names: Mapping[int, str]) -> Card:
    image_id, position = place
    before, after = (labels.instances[position] for labels in draw.rows(image_id))
    first, second = before.box_xyxy, after.box_xyxy
    box = (min(first[0], second[0]), min(first[1], second[1]), max(first[2], second[2]), max(first[3], second[3]))
    name = _name(names, after.category_id)
    facts = [f"agreement {after.agreement or 0.0:.2f}", f"score {after.score:.2f}"]
    if after.predicted_iou is not None:
        facts.append(f"SAM expects {after.predicted_iou:.2f}")
    pictures = draw.panels(image_id, position, box, name, None)
    return Card(pictures, name, tuple(facts), draw.rows(image_id)[1].file_name)


def _composite_card(folder: Path, row: ImageLabels, colours: Mapping[int, Rgb], names: Mapping[int, str]) -> Card:
    image = read_image(resolve_image_path(folder, row.file_name), (row.width, row.height))
    canvas = enlarged(image, _COMPOSITE_PX)
    for instance in sorted(row.instances, key=lambda each: -each.area):
        dropped = instance.decision is Decision.DROPPED
        paint(canvas, row.mask(instance), colours[instance.category_id], dashed=dropped, fill_share=_FILL_SHARE)
    counts = Counter(_name(names, each.category_id) for each in row.instances)
    shown = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    picture = inline(canvas, f"composite {row.image_id}: {shown or 'no instances'}")
    total = len(row.instances)
    facts = (shown,) if shown else ()
    return Card((("", picture),), f"{total} instance{'' if total == 1 else 's'}", facts, row.file_name)


def _disagreeing(store: LabelStore) -> Iterator[tuple[int, int]]:
    """Image id and position of instances, the strongest disagreement first, few of one image.

    Strong is what the teacher's score says and SAM's mask does not: score times (1 - agreement).
    """
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


def _made(items: Iterable[Item], limit: int, make: Callable[[Item], Card]) -> tuple[tuple[Card, ...], int]:
    """Cards of the first items, and how many could not be made."""
    cards: list[Card] = []
    unreadable = 0
    for item in islice(items, limit):
        try:
            cards.append(make(item))
        except ImageError:
            unreadable += 1
    return tuple(cards), unreadable


def _names(store: LabelStore) -> dict[int, str]:
    return {each.id: each.name for each in store.attributes.categories}


def _name(names: Mapping[int, str], category_id: int) -> str:
    return names.get(category_id, f"category {category_id}")
