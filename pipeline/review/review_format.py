"""The annotation tools that a review can be written for. Needs nothing heavy: the command line lists them."""

from __future__ import annotations

from enum import StrEnum


class ReviewFormat(StrEnum):
    """Whose files to write."""

    COCO = "coco"
    CVAT = "cvat"
    LABEL_STUDIO = "label-studio"
