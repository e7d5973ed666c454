"""The choice among SAM's candidates, made in SAM's low-resolution frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.overlap import soft_iou
from pipeline.refinement.geometry import LowresFrame
from pipeline.sam.prompt import Candidates

Rule = Literal["predicted_iou", "agreement", "product"]

STABILITY_SHIFT = 1.0
"""Logits by which the threshold is shifted both ways, as in segment_anything's mask generator."""


@dataclass(frozen=True)
class Choice:
    """The candidate taken. mask_logits_lowres: (lowres_side, lowres_side) float32, padding included.

    predicted_iou: SAM's own estimate, cut to 0..1. soft_agreement: soft IoU with the teacher's soft mask.
    stability: IoU of the mask under a shift of its threshold.
    """

    index: int
    mask_logits_lowres: NDArray[np.float32]
    predicted_iou: float
    soft_agreement: float
    stability: float


def stability_score(logits: NDArray[np.float32]) -> float:
    """Return the IoU of the masks (h, w) above the raised and above the lowered threshold; 0 if both are empty."""
    union = np.count_nonzero(logits > -STABILITY_SHIFT)
    return np.count_nonzero(logits > STABILITY_SHIFT) / union if union else 0.0


def choose(candidates: Candidates, probability_lowres: NDArray[np.float32], frame: LowresFrame, rule: Rule) -> Choice:
    """Take the candidate that is best by the rule; of equals the first.

    probability_lowres: the teacher's soft mask in the low-resolution frame, (lowres_side, lowres_side).
    """
    shown = frame.content.in_image
    logits = candidates.mask_logits_lowres[:, *shown]
    predicted = np.clip(candidates.predicted_iou.astype(np.float64), 0.0, 1.0)
    agreement = soft_iou(logits > 0, probability_lowres[shown])
    # SAM's estimates alone are ranked as they are: cut to 1 they would tie.
    merits = {
        "predicted_iou": candidates.predicted_iou.astype(np.float64),
        "agreement": agreement,
        "product": predicted * agreement,
    }
    index = int(merits[rule].argmax())
    return Choice(
        index=index,
        # A copy: a view would keep the logits of all candidates alive.
        mask_logits_lowres=candidates.mask_logits_lowres[index].copy(),
        predicted_iou=float(predicted[index]),
        soft_agreement=float(agreement[index]),
        stability=stability_score(logits[index]),
    )
