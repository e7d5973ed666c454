"""What an experiment says of SAM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import FilePath, Section

SamModel = Literal["sam_tiny", "vit_b", "vit_l", "vit_h"]


class SamSettings(Section):
    """The Segment Anything Model."""

    model: SamModel = "sam_tiny"
    """`sam_tiny` is shipped with the project, the others are fetched by `s4m weights get`."""
    checkpoint: FilePath | None = None
    """Weights other than the model's own."""
    input_side: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = None
    """Side, in pixels, that `sam_tiny` scales images to. Null: 256; the other models have a fixed one."""
