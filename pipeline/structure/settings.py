"""Settings of structural targets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Seed, Settings, Share


class DistillSettings(Settings):
    """Structural targets: maps of similarity that SAM's decoder gives for labelled images; the teacher learns them."""

    anchors: Annotated[int, Field(ge=2, le=4096)] = 128
    """Number of anchor points in an image. For each, a map says how similar SAM finds every other position."""
    inside_share: Share = 0.5
    """Share of the anchor points that are placed inside labelled instances; the others are placed anywhere."""
    seed: Seed = 0
    """Seed of the random positions of the anchor points."""
