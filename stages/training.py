"""What the stages that train have in common: running a job, and showing how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.detection.published import read_published
from pipeline.presentation import words
from stages.console import err
from stages.context import StageContext, Summary

if TYPE_CHECKING:
    from pipeline.detection.hooks import LoggedStep
    from pipeline.detection.training import TrainingJob

SECONDS_BETWEEN_LINES = 10.0
_SMOOTHING = 0.9


def run_training(context: StageContext, job: TrainingJob) -> Summary:
    """Train and publish in the context's folder; gives the last losses."""
    from pipeline.detection.training import train

    train(job, TrainingProgress(context.node.key, job.card.iterations), say)
    card = read_published(context.folder).card
    return {"iterations": card.iterations, "loss": card.losses["loss"]}


def say(text: str) -> None:
    """Tell the user, from whichever process."""
    err.print(text)


class TrainingProgress:
    """Says every few seconds how far a training is. It may travel to the process that trains."""

    def __init__(self, what: str, iterations: int) -> None:
        self._what, self._iterations = what, iterations
        self._said = 0.0
        self._seconds = 0.0
        self._first = 0

    def __call__(self, step: LoggedStep) -> None:
        """Note a finished iteration."""
        now = time.monotonic()
        if not self._first:
            self._first, self._seconds, self._said = step.iteration, step.seconds, now
            if step.iteration > 1:
                err.print(f"{self._what}: goes on after iteration {step.iteration - 1}")
        self._seconds = _SMOOTHING * self._seconds + (1 - _SMOOTHING) * step.seconds
        if now - self._said < SECONDS_BETWEEN_LINES and step.iteration < self._iterations:
            return
        self._said = now
        left = (self._iterations - step.iteration) * self._seconds
        losses = ", ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
        err.print(
            f"{self._what}: iteration {step.iteration:,} of {self._iterations:,}, {words.duration(left)} to go, "
            f"{self._seconds:.2f} s each, {losses}"
        )
