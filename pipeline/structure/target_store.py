"""Reading sealed structural targets: an image at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.labels.rows import Status
from pipeline.structure.target_columns import (
    TARGET_FORMAT,
    TARGET_STATUSES,
    ImageTargets,
    TargetAttributes,
    targets_from_columns,
)
from pipeline.tables.table_store import TableStore


class StructureStore(TableStore[TargetAttributes]):
    """A sealed store of structural targets. Images have positions, 0 to len - 1, in the order of the store."""

    table_format = TARGET_FORMAT

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
            yield from (self[index] for index in np.flatnonzero(self.column("images/status") == code).tolist())
