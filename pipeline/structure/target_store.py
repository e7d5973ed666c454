"""Reading sealed structural targets: an image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import Status
from pipeline.structure.target_columns import (
    TARGET_FORMAT,
    TARGET_STATUSES,
    ImageTargets,
    TargetAttributes,
    targets_from_columns,
)
from pipeline.tables.attributes import read_attributes
from pipeline.tables.table_store import TableStore


class StructureStore(TableStore[TargetAttributes]):
    """A sealed store of structural targets. Images have positions, 0 to len - 1, in the order of the store."""

    def __init__(self, path: Path, attributes: TargetAttributes) -> None:
        super().__init__(TARGET_FORMAT, path, attributes)

    @classmethod
    def open(cls, path: Path) -> StructureStore:
        """Open the store at a path; StoreError where there is none that this program can read."""
        return cls(path, read_attributes(path, TARGET_FORMAT))

    def __getitem__(self, position: int) -> ImageTargets:
        """Return the targets of the image at a position; negative ones count from the end."""
        index = range(len(self))[position]
        return targets_from_columns(self.columns_of(index, index + 1))[0]

    def by_id(self, image_id: int) -> ImageTargets:
        """Return the targets of an image; StoreError where the store does not have it."""
        return self[self.position(image_id)]

    def failed(self) -> Iterator[ImageTargets]:
        """Return the images that could not be used."""
        if self.attributes.statuses[Status.FAILED]:
            code = TARGET_STATUSES.index(Status.FAILED)
            yield from (self[index] for index in np.flatnonzero(self.column("status") == code).tolist())

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The ids of all images, in the order of the store."""
        return self.ids
