"""What an experiment says of structural targets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Section, Seed, Share


class DistillSettings(Section):
    """Structural targets: what SAM's decoder says of each labelled image, for the teacher to learn from."""

    source: Literal["sam", "truth"] = "sam"
    """Take similarities from SAM's decoder, or from the labels themselves: 1 within the same instance, else 0."""
    prompt: Literal["point", "point-and-box"] = "point"
    """Prompt SAM with the anchor alone, as the paper does, or also with the box of the instance it lies in."""
    anchors: Annotated[int, Field(ge=2, le=16384)] = 1024
    """Anchor points stored for each image. A training step draws `teacher.distillation_anchors` of them."""
    inside_share: Share = 0.5
    """Share of the anchors that lies inside instances; the rest lies anywhere."""
    inside: Literal["uniform", "by-instance"] = "uniform"
    """Spread the inside anchors evenly over all pixels of instances, as the paper does, or evenly over instances."""
    cell_px: Annotated[float, Field(gt=0)] | None = None
    """Largest side of a map's cells, in pixels of the image: larger images are distilled in overlapping tiles.
    Null: each image as a whole, in 64 x 64 cells."""
    seed: Seed = 0
    """Where the anchors fall."""
