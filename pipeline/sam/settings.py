"""Settings of SAM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.sam.files import HF
from pipeline.settings import FilePath, Settings, expanded


def _expanded_model(model: str) -> str:
    return f"{HF}{expanded(Path(model.removeprefix(HF)))}"


HfModel = Annotated[
    str,
    Field(pattern=rf"^{HF}\S", description="hf: with a folder or a name of Hugging Face transformers"),
    AfterValidator(_expanded_model),
]
SamModel = Literal["sam_tiny", "vit_b", "vit_l", "vit_h"] | HfModel


class SamSettings(Settings):
    """SAM, the Segment Anything Model, or a model of its kind."""

    model: SamModel = "sam_tiny"
    """The SAM. `sam_tiny` comes with this project; `s4m weights get` downloads others. docs/sams.md lists them."""
    checkpoint: FilePath | None = None
    """File of other weights for the model, not for an `hf:` one. Null: the weights that belong to it."""
    input_side: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = None
    """Longer side, in pixels, that images are scaled to for `sam_tiny`. Null: 256. The others have one each."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.checkpoint is not None and self.model.startswith(HF):
            raise self.misfit(f"the weights of {self.model} lie in its folder: leave sam.checkpoint out", "checkpoint")
        return self

    @model_validator(mode="after")
    def _side_of_sam_tiny(self) -> Self:
        if self.input_side is not None and self.model != "sam_tiny":
            raise self.misfit(f"only sam_tiny takes other sizes, sam.model is {self.model}", "input_side")
        return self
