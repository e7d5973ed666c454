"""Settings of refinement."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.settings import ScoreKind, Seed, Settings, Share

RefinePreset = Literal["best", "s4m", "samrefiner"]

AFTER_SAM: Final = (
    "separate",
    "separate_by",
    "gate",
    "min_agreement",
    "min_predicted_iou",
    "min_stability",
    "max_area_change",
    "drop_below_agreement",
)
"""Keys that decide about masks when SAM has answered: they change neither prompts nor answers."""


class RefineSettings(Settings):
    """How SAM refines the teacher's masks. A preset sets every key below that is not given."""

    preset: RefinePreset = "best"
    """`best`: the defaults below, chosen by measurement. `s4m`, `samrefiner`: as in the papers of these names."""
    points: Annotated[int, Field(ge=0, le=64)] = 3
    """Number of random points that tell SAM what belongs to the object, more likely where the teacher is surer."""
    center_point: bool = False
    """Give SAM one more such point, where the teacher's mask is widest."""
    background_point: bool = False
    """Give SAM a point that does not belong to the object: where the background within its box is widest."""
    box: Literal["none", "tight", "elastic"] = "elastic"
    """Give SAM no box, the box of the teacher's mask, or one that is enlarged where the teacher is unsure."""
    box_margin: Share = 0.1
    """Largest share of its width and height by which an elastic box is enlarged."""
    mask_prompt: bool = True
    """Give SAM the teacher's mask with its probabilities as well."""
    passes: Annotated[int, Field(ge=1, le=8)] = 1
    """Number of times that SAM is asked about a mask. From the second on it also gets its own last mask."""
    choice: Literal["predicted_iou", "agreement", "product"] = "product"
    """Of SAM's candidates, choose by SAM's own estimate, by agreement with the teacher, or by the product of both."""
    smoothing_cells: Annotated[float, Field(ge=0, le=4)] = 0.5
    """Smooth SAM's mask by this many cells of its low resolution, so that it has no steps when enlarged. 0: never."""
    largest_component: bool = True
    """Keep only the largest connected part of a mask."""
    fill_holes: bool = False
    """Fill the holes of a mask."""
    separate: bool = False
    """Let masks of one image not overlap: a pixel of several belongs to the one with the highest score."""
    separate_by: ScoreKind = "class"
    """The score that `separate` compares: class score, mask score or their product. An unknown mask score is 1."""
    gate: Literal["none", "fixed", "calibrated", "teacher"] = "fixed"
    """Use SAM's mask always, if it passes the thresholds below, if it passes fitted ones, or never (without SAM)."""
    min_agreement: Share = 0.5
    """Gate: use the teacher's mask when the IoU of SAM's mask with it is below this."""
    min_predicted_iou: Share = 0.0
    """Gate: use the teacher's mask when SAM's own estimate of its mask is below this."""
    min_stability: Share = 0.0
    """Gate: use the teacher's mask when the IoU of SAM's masks at two nearby thresholds is below this."""
    max_area_change: Annotated[float, Field(ge=1)] = 4.0
    """Gate: use the teacher's mask when SAM's is larger or smaller than it by more than this factor."""
    drop_below_agreement: Share = 0.0
    """Gate: drop an instance when the IoU of SAM's mask with the teacher's is below this."""
    zoom_below_px: Annotated[int, Field(ge=0)] = 32
    """Refine an instance in an enlarged crop if its shorter side is below this, in pixels of SAM's input. 0: never."""
    seed: Seed = 0
    """Seed of the random points."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("preset")
        return {**(REFINE_PRESETS.get(name, {}) if isinstance(name, str) else {}), **given}

    @model_validator(mode="after")
    def _with_a_prompt(self) -> Self:
        if not (self.points or self.center_point or self.box != "none" or self.mask_prompt):
            raise self.misfit("no prompt for SAM; give points, center_point, box or mask_prompt")
        return self
