"""Settings of SAM."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings import FilePath, Settings

SamModel = Literal["sam_tiny", "vit_b", "vit_l", "vit_h"]


class SamSettings(Settings):
    """SAM, the Segment Anything Model."""

    model: SamModel = "sam_tiny"
    """Size of SAM. `sam_tiny` comes with this project; `s4m weights get` downloads the weights of the others."""
    checkpoint: FilePath | None = None
    """File of other weights for the model. Null: the weights that belong to it."""
    input_side: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = None
    """Longer side, in pixels, that images are scaled to for `sam_tiny`. Null: 256. The other models always use 1024."""

    @model_validator(mode="after")
    def _side_of_sam_tiny(self) -> Self:
        if self.input_side is not None and self.model != "sam_tiny":
            raise self.misfit(f"only sam_tiny takes other sizes, sam.model is {self.model}", "input_side")
        return self
