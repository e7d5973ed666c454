"""What refinement did to the teacher's masks, as far as it shows without truth, and whether that looks like harm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.labels.label_columns import DECISIONS
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.roughness import roughness

# Limits between refinements that helped and ones that harmed, on imitated teachers: docs/benchmarks.md has the figures.
RECOGNISED_FROM: Final = 0.5
"""An agreement below this changes a mask beyond recognition."""
LEAST_AGREEMENT: Final = 0.6
MOST_BEYOND: Final = 0.1
MOST_ROUGHNESS: Final = 1.25
MOST_ROUGHER: Final = 1.15

REMEDY: Final = (
    "this looks like harm: draw some masks, measure them where truth is known, and try refine.preset=best, a higher "
    "refine.min_agreement, or refine.gate=calibrated"
)

_IMAGES: Final = 400
_INSTANCES: Final = 2000
"""Most images and instances whose outlines are measured, evenly chosen."""

_AGREEMENT, _BEYOND = "mean agreement", "changed beyond recognition"
_BEFORE, _AFTER = "roughness before", "roughness after"


@dataclass(frozen=True)
class Effect:
    """What refinement did to the teacher's masks.

    agreement: mean IoU of SAM's masks with the teacher's, whatever the gate decided; None where SAM had no mask.
    from_sam: number of instances that got SAM's mask. beyond: those of them with an agreement below `RECOGNISED_FROM`.
    rough_before, rough_after: mean roughness of the outlines of instances that got SAM's mask (see `roughness`).
    """

    agreement: float | None
    from_sam: int
    beyond: int
    rough_before: float | None
    rough_after: float | None

    def figures(self) -> dict[str, float | int]:
        """Return the figures by name, for the record of a stage; `of_figures` reads them."""
        named = {_AGREEMENT: self.agreement, _BEFORE: self.rough_before, _AFTER: self.rough_after}
        return {_BEYOND: self.beyond} | {name: round(each, 3) for name, each in named.items() if each is not None}

    @classmethod
    def of_figures(cls, summary: Mapping[str, Any]) -> Effect | None:
        """Read the figures from a record; None from one of an earlier version."""
        if _BEYOND not in summary:
            return None
        from_sam = summary.get(str(Decision.SAM), 0)
        return cls(summary.get(_AGREEMENT), from_sam, summary[_BEYOND], summary.get(_BEFORE), summary.get(_AFTER))

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each figure that looks like harm."""
        told = []
        if self.agreement is not None and self.agreement < LEAST_AGREEMENT:
            told.append(
                f"SAM's masks agree little with the teacher's: their mean IoU is {self.agreement:.2f}, less than "
                f"{LEAST_AGREEMENT:g}"
            )
        if self.beyond > MOST_BEYOND * self.from_sam:
            told.append(
                f"{self.beyond:,} of {self.from_sam:,} masks from SAM are changed beyond recognition (agreement below "
                f"{RECOGNISED_FROM:g}), more than {MOST_BEYOND:.0%}"
            )
        before, after = self.rough_before, self.rough_after
        if before is not None and after is not None and after > max(MOST_ROUGHNESS, MOST_ROUGHER * before):
            told.append(
                f"the outlines became rough: {before:.2f} before, {after:.2f} after (1 is smooth, more than "
                f"{MOST_ROUGHNESS:g} is rough)"
            )
        return tuple(told)

    def warning_lines(self) -> list[str]:
        """Return the warnings with what to do about them; nothing if nothing looks like harm."""
        warnings = self.warnings()
        return [*(f"warning: {warning}" for warning in warnings), *([f"  {REMEDY}"] if warnings else [])]


def measure_effect(teacher: LabelStore, refined: LabelStore) -> Effect:
    """Compare a teacher's labels with the same labels refined."""
    agreement = refined.column("instances/agreement")
    by_sam = refined.column("instances/decision") == DECISIONS.index(Decision.SAM)
    known = agreement[~np.isnan(agreement)]
    pairs = np.array(list(_roughness_pairs(teacher, refined)), np.float64).reshape(-1, 2)
    before, after = pairs.mean(axis=0).tolist() if len(pairs) else (None, None)
    return Effect(
        agreement=float(known.mean()) if known.size else None,
        from_sam=int(by_sam.sum()),
        beyond=int((by_sam & (agreement < RECOGNISED_FROM)).sum()),
        rough_before=before,
        rough_after=after,
    )


def _roughness_pairs(teacher: LabelStore, refined: LabelStore) -> Iterator[tuple[float, float]]:
    """Yield the roughness before and after of instances with SAM's mask, of images evenly spread over all."""
    positions = np.unique(np.linspace(0, len(refined) - 1, min(_IMAGES, len(refined))).round().astype(int)).tolist()
    most_of_one = max(1, _INSTANCES // max(1, len(positions)))
    for position in positions:
        yield from _of_image(teacher[position], refined[position], most_of_one)


def _of_image(before: ImageLabels, after: ImageLabels, most: int) -> Iterator[tuple[float, float]]:
    changed = [index for index, each in enumerate(after.instances) if each.decision is Decision.SAM]
    for index in changed[:: max(1, len(changed) // most)][:most]:
        first = roughness(before.rle(before.instances[index]))
        second = roughness(after.rle(after.instances[index]))
        if first is not None and second is not None:
            yield first, second
