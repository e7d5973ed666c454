"""Settings of the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Settings


class ReportSettings(Settings):
    """The HTML report."""

    gallery: Annotated[int, Field(ge=0, le=200)] = 24
    """Number of images in each gallery."""
