"""Reading a sealed label store: an image at a time, by position, id or file name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.labels.label_columns import LABEL_FORMAT, LabelAttributes, labels_from_columns
from pipeline.labels.rows import ImageLabels
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
        """Return the labels of the images from one position to before another; both are cut to what is there."""
        wanted = range(len(self))[start:end]
        return labels_from_columns(self.columns_of(wanted.start, wanted.stop)) if wanted else []

    def by_id(self, image_id: int) -> ImageLabels:
        """Return the labels of an image; StoreError where the store does not have it."""
        return self[self.position(image_id)]

    def by_name(self, file_name: str) -> ImageLabels:
        """Return the labels of the image of a file name, the last of several; StoreError where there is none."""
        try:
            return self[self._position_by_name[file_name]]
        except KeyError as error:
            raise StoreError(f"{self.path}: there is no image named {file_name!r}.") from error

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The ids of all images, in the order of the store."""
        return self.ids

    def file_names(self) -> list[str]:
        """Return the file names of all images, in the order of the store."""
        name = "images/file_name"
        return texts_of(name, {each: self.column(each) for each in (f"{name}_offsets", f"{name}_bytes")})

    @cached_property
    def _position_by_name(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.file_names())}
