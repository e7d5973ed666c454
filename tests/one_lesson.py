"""A SAM that is fitted to one lesson again and again."""

from __future__ import annotations

import numpy as np

from pipeline.adaptation.fitting import Fitting, lesson_loss
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.views import draw_lesson, draw_view
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.frame import InputFrame


def losses_of_one_lesson(
    pupil: Fitting, labelled: UsableImages, frame: InputFrame, refine: RefineSettings, steps: int
) -> list[float]:
    """The loss of every step, on the first labelled image."""
    rng = np.random.default_rng(0)
    image_id = labelled.image_ids[0]
    view = draw_view(labelled.pixels(image_id), labelled.masks[image_id], frame, 0, 2, rng)
    lesson = draw_lesson(view, frame, 0.8, refine, 0, rng)
    losses = []
    for _ in range(steps):
        loss = lesson_loss(pupil._sam, pupil._embedding(view), lesson, refine)
        losses.append(float(loss.detach()))
        pupil._optimizer.zero_grad()
        loss.backward()
        pupil._optimizer.step()
    return losses
