"""What the stages that train have in common: running a training, and showing how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.coco.reading import read_coco
from pipeline.detection.jobs import Subject, Training, training_job
from pipeline.detection.published import read_published
from pipeline.detection.training import train
from pipeline.presentation import words
from pipeline.workflow.trainings import TrainingInputs
from stages.console import err
from stages.context import StageContext, Summary

if TYPE_CHECKING:
    from pipeline.detection.hooks import LoggedStep

SECONDS_BETWEEN_LINES = 10.0
_SMOOTHING = 0.9


def training_inputs(context: StageContext) -> TrainingInputs:
    """Return what a training reads."""
    return TrainingInputs(
        labelled=context.labelled(),
        labelled_root=context.labelled_images(),
        unlabelled_root=context.unlabelled_images(),
        results=context.results,
        scratch=context.folder,
    )


def run_training(context: StageContext, training: Training) -> Summary:
    """Train, or go on training, and publish in the context's folder; return the last losses."""
    validation = context.validation()
    subject = Subject(
        experiment=context.experiment.name,
        node=context.node.key,
        categories=tuple(sorted(read_coco(context.labelled()).categories, key=lambda category: category.id)),
        made_from=dict(context.fingerprint),
        validation=None if validation is None else (validation[0].absolute(), validation[1].absolute()),
    )
    job = training_job(subject, training, context.experiment.compute, context.folder.absolute())
    train(job, TrainingProgress(context.node.key, job.card.iterations), say)
    card = read_published(context.folder).card
    return {"iterations": card.iterations, "loss": card.losses["loss"]}


def say(text: str) -> None:
    """Say something to the user, from whichever process."""
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
                err.print(f"{self._what}: continuing after iteration {step.iteration - 1:,}")
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
