"""What an experiment says of measuring."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Section


class EvaluateSettings(Section):
    """How teacher, student and pseudo-labels are measured."""

    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
    """Detections an image that count."""
    boundary: bool = True
    """Measure boundary AP and boundary IoU as well."""
