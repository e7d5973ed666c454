"""Settings of structural targets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Seed, Settings, Share


class DistillSettings(Settings):
    """Structural targets: maps of similarity that SAM's decoder gives for labelled images; the teacher learns them."""

    source: Literal["sam", "truth"] = "sam"
    """Take similarities from SAM's decoder, or from the labels: 1 within the anchor's own instance, else 0."""
    prompt: Literal["point", "point-and-box"] = "point"
    """Give SAM the anchor point alone, as in the paper, or also the box of the instance that it lies in."""
    anchors: Annotated[int, Field(ge=2, le=16384)] = 1024
    """Number of anchor points stored for an image. For each, a map says how similar every other position is."""
    inside_share: Share = 0.5
    """Share of the anchor points that are placed inside labelled instances; the others are placed anywhere."""
    inside: Literal["uniform", "by-instance"] = "uniform"
    """Place inside points evenly over all pixels of instances, as in the paper, or as many in each instance."""
    cell_px: Annotated[float, Field(ge=1)] | None = None
    """Largest side of a map's cells in pixels; overlapping tiles divide larger images. Null: 64 x 64 cells an image."""
    seed: Seed = 0
    """Seed of the random positions of the anchor points."""
