"""The annotation tools that a review can be written for. Imports no other module: the command line lists them."""

from __future__ import annotations

from enum import StrEnum


class ReviewFormat(StrEnum):
    """The annotation tool for which to write files."""

    COCO = "coco"
    CVAT = "cvat"
    LABEL_STUDIO = "label-studio"
