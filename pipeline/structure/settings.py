"""What an experiment says of structural targets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.settings import Section, Seed, Share


class DistillSettings(Section):
    """Structural targets: what SAM's decoder says of each labelled image, for the teacher to learn from."""

    anchors: Annotated[int, Field(ge=2, le=4096)] = 128
    """Anchor points an image; each gives one similarity map."""
    inside_share: Share = 0.5
    """Share of the anchors that lies inside instances; the rest lies anywhere."""
    seed: Seed = 0
    """Where the anchors fall."""
