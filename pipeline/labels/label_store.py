"""Reads a sealed label store: one image at a time, by position, id or file name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.errors import StoreError
from pipeline.labels.label_columns import (
    LABEL_FORMAT,
    STATUSES,
    LabelAttributes,
    labels_from_columns,
)
from pipeline.labels.rows import ImageLabels, Status
from pipeline.presentation.notebook import table_html
from pipeline.tables.columns import texts_of
from pipeline.tables.table_store import TableStore

_IMAGES_AT_ONCE = 64


class LabelStore(TableStore[LabelAttributes]):
    """A sealed store of labels. Images have positions, 0 to len - 1, in the order of the store."""

    table_format = LABEL_FORMAT

    def __iter__(self) -> Iterator[ImageLabels]:
        for start in range(0, len(self), _IMAGES_AT_ONCE):
            yield from self.rows(start, start + _IMAGES_AT_ONCE)

    def __getitem__(self, position: int) -> ImageLabels:
        """Return the labels of the image at a position; negative ones count from the end."""
        index = range(len(self))[position]
        return labels_from_columns(self.columns_of(index, index + 1))[0]

    def rows(self, start: int, end: int) -> list[ImageLabels]:
        """Return the labels of the images at positions from `start` to before `end`, cut to the length of the store."""
        wanted = range(len(self))[start:end]
        return labels_from_columns(self.columns_of(wanted.start, wanted.stop)) if wanted else []

    def by_id(self, image_id: int) -> ImageLabels:
        """Return the labels of an image; StoreError where the store does not have it."""
        return self[self.position(image_id)]

    def by_name(self, file_name: str) -> ImageLabels:
        """Return the labels of the last image with a file name; StoreError where the store has no such image."""
        try:
            return self[self._position_by_name[file_name]]
        except KeyError as error:
            raise StoreError(f"{self.path}: there is no image named {file_name!r}.") from error

    @property
    def categories(self) -> tuple[CocoCategory, ...]:
        """Return the categories of the dataset."""
        return self.attributes.categories

    @property
    def instances(self) -> int:
        """Count the instances, dropped ones included."""
        return self.attributes.instances

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """Return the ids of all images, in the order of the store."""
        return self.ids

    def file_names(self) -> list[str]:
        """Return the file names of all images, in the order of the store."""
        name = "images/file_name"
        return texts_of(name, {each: self.column(each) for each in (f"{name}_offsets", f"{name}_bytes")})

    def usable_images(self) -> list[CocoImage]:
        """Return the images that did not fail, in the order of the store."""
        columns = (self.column(f"images/{name}").tolist() for name in ("id", "width", "height", "status"))
        return [
            CocoImage(image_id, file_name, width, height)
            for file_name, image_id, width, height, status in zip(self.file_names(), *columns, strict=True)
            if STATUSES[status] is not Status.FAILED
        ]

    def mask_scores(self) -> NDArray[np.float32]:
        """Return the mask scores of all instances; NaN where they are not known, as in stores of version 2."""
        return self._measure("mask_score")

    def class_doubts(self) -> NDArray[np.float32]:
        """Return of all instances how far similar labelled instances agree on another class; NaN where they do not."""
        agreement = self._measure("class_agreement")
        if np.isnan(agreement).all():
            return agreement
        disagree = self.column("instances/class_vote") != self.column("instances/category_id")
        return np.where(disagree, agreement, np.float32(np.nan))

    def _measure(self, name: str) -> NDArray[np.float32]:
        """Return a measure of all instances; NaN where it is not known, as in stores of a version without it."""
        column = f"instances/{name}"
        if column not in self.attributes.column_digests:
            return np.full(self.attributes.instances, np.nan, np.float32)
        return self.column(column)

    def failed(self) -> list[ImageLabels]:
        """Return the rows of all failed images, in the order of the store."""
        positions = np.flatnonzero(self.column("images/status") == STATUSES.index(Status.FAILED))
        return [self[position] for position in positions.tolist()]

    def counts(self) -> dict[str, int]:
        """Count images and instances, and those of every status but `ok` and of every decision that occurs."""
        counts = {"images": self.attributes.images, "instances": self.attributes.instances}
        details = {**self.attributes.statuses, **self.attributes.decisions}
        return counts | {name: count for name, count in details.items() if count and name != Status.OK}

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        names = [category.name for category in self.attributes.categories]
        rows = [(name, f"{count:,}") for name, count in self.counts().items()]
        rows += [("categories", ", ".join(names)), ("digest", self.attributes.digest)]
        return table_html(f"Label store {self.path}", (), rows)

    @cached_property
    def _position_by_name(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.file_names())}
