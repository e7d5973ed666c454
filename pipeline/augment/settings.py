"""What an experiment says of composites."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Count, Section, Seed, Share


class AugmentSettings(Section):
    """ARP: composites of two unlabelled images with their refined labels."""

    mode: Literal["materialised", "on-the-fly", "none"] = "materialised"
    """Write composites once, make them while training, or do without."""
    copies: Count = 1
    """Composites for each unlabelled image."""
    placement: Literal["in-place", "moved"] = "in-place"
    """Paste an instance where it was, or rescaled and elsewhere."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.8, 1.2)
    """Range of the rescaling of moved instances."""
    partners: Literal["unlabelled", "labelled-too"] = "unlabelled"
    """Which images an image may be paired with."""
    decisions: tuple[Literal["sam", "teacher"], ...] = ("sam",)
    """Instances are pasted only if the gate decided so."""
    min_score: Share = 0.0
    """Instances with a lower class score are not pasted."""
    min_area_px: Annotated[float, Field(ge=0)] = 16.0
    """Smaller instances are not pasted."""
    min_area_share: Share = 0.0
    """Instances with a smaller share of their image are not pasted."""
    min_visible_share: Share = 0.1
    """What is covered to less than this share is dropped."""
    edge_blend_px: Annotated[float, Field(ge=0)] = 0.0
    """Width of the soft edge of pasted instances; 0: hard."""
    seed: Seed = 0
    """Pairs, places and sizes."""
