"""Settings of composites."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.settings import MISFIT, Count, Seed, Settings, Share

Factor = Annotated[float, Field(gt=0)]


class AugmentSettings(Settings):
    """ARP: composites, each made by pasting refined instances of one unlabelled image into another."""

    mode: Literal["materialised", "on-the-fly", "none"] = "materialised"
    """Write composites once before the student trains, make new ones while it trains, or make none."""
    views: bool = False
    """Scale and crop each image of a pair on its own before pasting; areas are then in pixels of these views."""
    copies: Count = 1
    """Number of composites made from each unlabelled image."""
    placement: Literal["in-place", "moved"] = "in-place"
    """Paste an instance at the position that it had in its own image, or rescale it and move it elsewhere."""
    scale: tuple[Factor, Factor] = (0.8, 1.2)
    """Smallest and largest factor by which a moved instance is rescaled."""
    partners: Literal["unlabelled", "labelled-too"] = "unlabelled"
    """Take pasted instances from unlabelled images only, or from labelled images too."""
    decisions: tuple[Literal["sam", "teacher"], ...] = ("sam",)
    """Paste an instance only if its mask is from one of these: from SAM, or kept from the teacher."""
    min_score: Share = 0.0
    """Do not paste an instance whose class score is below this."""
    min_area_px: Annotated[float, Field(ge=0)] = 16.0
    """Do not paste an instance whose area is below this number of pixels."""
    min_area_share: Share = 0.0
    """Do not paste an instance whose area is below this share of its image."""
    min_visible_share: Share = 0.1
    """Drop an instance when less than this share of it stays visible under the pasted ones."""
    edge_blend_px: Annotated[float, Field(ge=0)] = 0.0
    """Width, in pixels, of the soft edge of pasted instances. 0: a hard edge."""
    seed: Seed = 0
    """Seed of the random pairs of images, positions and scales."""

    @field_validator("scale")
    @classmethod
    def _smaller_first(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if low > high:
            raise PydanticCustomError(
                MISFIT, "given [{low}, {high}]; expected the smaller number first", {"low": low, "high": high}
            )
        return scale

    @model_validator(mode="after")
    def _views_are_made_while_training(self) -> Self:
        if self.views and self.mode == "materialised":
            message = "true needs augment.mode on-the-fly: composites that are written once are of whole images"
            raise self.misfit(message, "views")
        return self
