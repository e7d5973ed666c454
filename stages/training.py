"""Code that both training stages share: run a training and show its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.coco.reading import read_coco
from pipeline.detection.jobs import Subject, Training, training_job
from pipeline.detection.published import read_published
from pipeline.detection.training import train
from stages.console import err
from stages.context import StageContext, Summary
from stages.progress import TrainingDisplay

if TYPE_CHECKING:
    from pipeline.detection.hooks import LoggedStep


def run_training(context: StageContext, training: Training) -> Summary:
    """Train, or continue a training, and publish the model in the context's folder; return the last loss.

    Return no figures on a machine that only helps another to train.
    """
    validation = context.validation()
    subject = Subject(
        experiment=context.experiment.name,
        node=context.node.key,
        categories=tuple(sorted(read_coco(context.labelled()).categories, key=lambda category: category.id)),
        made_from=dict(context.fingerprint),
        validation=None if validation is None else (validation[0].absolute(), validation[1].absolute()),
    )
    job = training_job(subject, training, context.experiment.compute, context.folder.absolute())
    with TrainingDisplay(context.node.key, job.card.iterations) as display:
        train(job, _Report(display, context.note_time), say)
    if job.compute.is_helper:
        return {}
    card = read_published(context.folder).card
    return {"iterations": card.iterations, "loss": round(card.losses["loss"], 3)}


@contextmanager
def scratch_folder(context: StageContext) -> Iterator[Path]:
    """Yield a folder for files that only this training reads: that of the result; elsewhere on a helping machine."""
    if context.experiment.compute.is_helper:
        with TemporaryDirectory(prefix="s4m-") as folder:
            yield Path(folder)
    else:
        yield context.folder


def say(text: str) -> None:
    """Print a message for the user, from any process."""
    err.print(text)


@dataclass(frozen=True)
class _Report:
    """Shows an iteration and notes the time. It may be pickled for the process that trains."""

    display: TrainingDisplay
    note_time: Callable[[], None]

    def __call__(self, step: LoggedStep, recent: Mapping[str, float]) -> None:
        self.display(step, recent)
        self.note_time()
