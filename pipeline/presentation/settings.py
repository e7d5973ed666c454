"""What an experiment says of its report."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Section


class ReportSettings(Section):
    """The HTML report."""

    gallery: Annotated[int, Field(ge=0, le=200)] = 24
    """Pictures in each gallery."""
