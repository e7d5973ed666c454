"""Settings of the evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import FolderPath, Settings


class EvaluateSettings(Settings):
    """How teacher, student and pseudo-labels are measured."""

    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
    """Count at most this many detections in an image, those with the highest scores."""
    boundary: bool = True
    """Measure boundary AP and boundary IoU as well, which compare outlines instead of areas."""
    cityscapes: FolderPath | None = None
    """Folder of Cityscapes' label images of the validation images: measure Cityscapes' instance AP too. Null: not."""
