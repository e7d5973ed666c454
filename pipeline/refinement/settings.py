"""What an experiment says of refinement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Section, Seed, Share

RefinePreset = Literal["best", "s4m", "samrefiner"]


class RefineSettings(Section):
    """How SAM sharpens the teacher's masks. `preset` fills every key that is not given."""

    preset: RefinePreset = "best"
    """`s4m`: the paper's recipe. `samrefiner`: all prompts at once. `best`: chosen by measurement."""
    points: Annotated[int, Field(ge=0, le=64)] = 3
    """Positive points sampled inside the mask in proportion to its probability."""
    center_point: bool = False
    """A positive point where the mask is widest."""
    background_point: bool = False
    """A negative point where the background inside the box is widest."""
    box: Literal["none", "tight", "elastic"] = "none"
    """Box prompt: the mask's own, or one that grows where the teacher is unsure."""
    box_margin: Share = 0.1
    """How far an elastic box may grow, as a share of its sides."""
    mask_prompt: bool = False
    """Give the teacher's soft mask to SAM as well."""
    passes: Annotated[int, Field(ge=1, le=8)] = 1
    """Decoder passes; each later one also sees the mask of the one before."""
    choice: Literal["predicted_iou", "agreement", "product"] = "predicted_iou"
    """Which of SAM's candidates wins: by its own estimate, by agreement with the teacher, by both."""
    largest_component: bool = False
    """Keep only the largest connected part of a mask."""
    fill_holes: bool = False
    """Fill the holes of a mask."""
    separate: bool = False
    """Give pixels claimed by several instances to the one with the highest score."""
    gate: Literal["none", "fixed", "calibrated", "teacher"] = "none"
    """Between SAM's mask and the teacher's: always SAM's, by the thresholds below, by fitted ones, or without SAM."""
    min_agreement: Share = 0.5
    """Gate: lowest IoU between SAM's mask and the teacher's."""
    min_predicted_iou: Share = 0.0
    """Gate: lowest IoU that SAM itself expects."""
    min_stability: Share = 0.0
    """Gate: lowest stability of SAM's mask under a shift of its threshold."""
    max_area_change: Annotated[float, Field(ge=1)] = 4.0
    """Gate: largest factor by which SAM may grow or shrink the mask."""
    drop_below_agreement: Share = 0.0
    """Gate: below this agreement neither mask is believed and the instance is dropped."""
    zoom_below_px: Annotated[int, Field(ge=0)] = 0
    """Instances with shorter sides, in SAM's pixels, are refined in an enlarged crop instead; 0: none."""
    seed: Seed = 0
    """Where sampled points fall."""
