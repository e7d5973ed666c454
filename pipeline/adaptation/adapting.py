"""Fit a SAM to labelled images, measure it on images that were held out, and write the weights that did best.

Every fold is fitted and measured on its own. Its marks are kept until the result is there, so that a stopped run goes
on with the next fold, or within one at its last checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from pipeline.adaptation.card import FORMAT, Adaptation, Trained, read_adaptation, write_adaptation
from pipeline.adaptation.encoding import EncodedOnce
from pipeline.adaptation.fitting import Course, Fitting, half_way
from pipeline.adaptation.guard import QualityResult, WhoseWeights, choose_weights, pooled_gain
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.measuring import QUALITIES, Exam, Marks, examine, make_exams, noises_of
from pipeline.adaptation.settings import AdaptSettings
from pipeline.compute.execution import Execution
from pipeline.compute.gpu_memory import told_if_gpu_is_full
from pipeline.errors import S4MError, StageError
from pipeline.files.writing import open_atomically
from pipeline.presentation import words
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.adapted import CARD
from pipeline.sam.files import hf_folder
from pipeline.sam.hf.folder import check_folder
from pipeline.sam.interface import Engine, Learner, State
from pipeline.sam.learner import build_learner
from pipeline.sam.settings import SamSettings

FEWEST_IMAGES: Final = 2
_WORK: Final = "unfinished"

FoldMarks = Mapping[str, Marks]
"""The marks of one fold by whose weights SAM had."""


@dataclass(frozen=True)
class AdaptTask:
    """What SAM is fitted to, and the prompts that it will be asked with.

    held_out: share of the images that SAM must not see, because a gate is fitted on it.
    """

    annotations: Path
    images: Path
    sam: SamSettings
    refine: RefineSettings
    adapt: AdaptSettings
    held_out: float = 0.0


def require_adaptable(model: str) -> None:
    """Raise StageError for a SAM that cannot be fitted here."""
    folder = hf_folder(model)
    if folder is not None:
        try:
            check_folder(folder, model)
        except S4MError as error:
            raise StageError(f"{model} cannot be fitted to labels: {error}") from error


def adapt_sam(task: AdaptTask, folder: Path, execution: Execution) -> Adaptation:
    """Write a SAM that was fitted to labelled images into a folder, unless it is there; return its card.

    The folder may hold what an interrupted run left. Raise StageError for a SAM that cannot be fitted, and for
    trainings that fail.
    """
    require_adaptable(task.sam.model)
    if not (folder / CARD).exists():
        sam = build_learner(task.sam, execution.compute.device)
        labelled = UsableImages.read(task.annotations, task.images, execution.compute, task.adapt.seed, task.held_out)
        for name, reason in labelled.failures.items():
            execution.say(f"adapt: {name} is not used: {reason}")
        folder.mkdir(parents=True, exist_ok=True)
        state, card = _Adapting(task, sam, labelled, folder / _WORK, execution).run()
        sam.publish(state, folder)
        write_adaptation(card, folder)
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    return read_adaptation(folder)


class _Adapting:
    """The steps of one adaptation. work: folder of its unfinished parts."""

    def __init__(self, task: AdaptTask, sam: Learner, labelled: UsableImages, work: Path, execution: Execution) -> None:
        self._task, self._sam, self._labelled, self._work = task, sam, labelled, work
        self._say: Callable[[str], None] = execution.say
        self._precision = execution.settled.precision
        # Prompts alike for all gates; the random points are those of this stage.
        self._refine = task.refine.model_copy(update={"gate": "none", "separate": False, "seed": task.adapt.seed})
        self._trained = trained_part(task.adapt, task.sam.model)
        self._frozen = EncodedOnce(self._engine(self._shipped)) if self._trained == "decoder" else None

    def run(self) -> tuple[State, Adaptation]:
        images = self._labelled.image_ids
        shipped = self._shipped
        if len(images) < FEWEST_IMAGES:
            reason = (
                f"there {'is' if len(images) == 1 else 'are'} {words.count(len(images), 'labelled image')} with "
                f"instances, and at least {FEWEST_IMAGES} are needed: one to fit to, another to measure on"
            )
            return shipped, self._card(WhoseWeights.SHIPPED, reason, 0, ())
        noises = noises_of(self._labelled, self._task.adapt.seed)
        folds = self._labelled.folds(self._task.adapt.folds)
        parts = {"all": "all of SAM", "decoder": "SAM without its image encoder"}
        self._say(
            f"adapt: fitting {parts[self._trained]} to {words.count(len(images), 'image')} in {len(folds)} folds of "
            f"{self._task.adapt.iterations:,} steps"
        )
        marks = [self._fold(number, held_out, noises, len(folds)) for number, held_out in enumerate(folds, start=1)]
        results = pooled(marks)
        chosen = choose_weights(results)
        card = self._card(chosen, _reason(chosen, results), len(folds), results)
        if chosen is WhoseWeights.SHIPPED:
            return shipped, card
        fitted = self._fit(Course("on all images", 0, images, max(noises)))
        return (fitted if chosen is WhoseWeights.ADAPTED else half_way(_on_cpu(shipped), fitted)), card

    def _fold(self, number: int, held_out: Sequence[int], noises: Sequence[float], folds: int) -> FoldMarks:
        """Return the marks of a fold, of an interrupted run if it is there."""
        path = self._work / f"fold-{number}.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Marks])
        course = Course(f"fold {number} of {folds}", number, self._labelled.without(held_out), max(noises))
        fitted, shipped = self._fit(course), _on_cpu(self._shipped)
        exams = list(make_exams(self._labelled, held_out, noises, self._task.adapt.seed, folds))
        candidates = {
            WhoseWeights.SHIPPED: shipped,
            WhoseWeights.HALF_WAY: half_way(shipped, fitted),
            WhoseWeights.ADAPTED: fitted,
        }
        marks = {str(name): self._marks(exams, state) for name, state in candidates.items()}
        with open_atomically(path) as file:
            file.write(msgspec.json.encode(marks))
        return marks

    def _fit(self, course: Course) -> State:
        fitting = Fitting(self._sam, self._labelled, course, self._refine, self._task.adapt, self._frozen)
        remedy = "set adapt.train=decoder, or a smaller adapt.instances, and give the same command"
        with told_if_gpu_is_full("adapt", remedy):
            return fitting.run(self._work / f"course-{course.number}.pt", self._say)

    def _marks(self, exams: Sequence[Exam], state: State) -> Marks:
        engine = self._engine(state)
        return examine(exams, engine if self._frozen is None else self._frozen.with_decoder(engine), self._refine)

    @property
    def _shipped(self) -> State:
        return self._sam.module.state_dict()

    def _engine(self, state: State) -> Engine:
        return self._sam.engine(state, self._precision)

    def _card(self, chosen: WhoseWeights, reason: str, folds: int, results: tuple[QualityResult, ...]) -> Adaptation:
        return Adaptation(
            model=self._task.sam.model,
            chosen=str(chosen),
            input_side=self._task.sam.input_side,
            format=FORMAT,
            trained=self._trained,
            reason=reason,
            images=len(self._labelled.image_ids),
            folds=folds,
            failures=dict(self._labelled.failures),
            results=results,
        )


def trained_part(adapt: AdaptSettings, model: str) -> Trained:
    """Return the part of a SAM that is trained: the encoders of published SAMs are dear to train."""
    if adapt.train != "auto":
        return adapt.train
    return "all" if model == "sam_tiny" else "decoder"


def pooled(folds: Sequence[FoldMarks]) -> tuple[QualityResult, ...]:
    """Return the mean marks of all folds, for each quality of teacher with an instance."""
    results = []
    for quality in range(len(QUALITIES)):
        taught = _of_quality(folds, WhoseWeights.SHIPPED, quality, "teacher")
        if taught:
            refined = {
                str(name): round(float(np.mean(_of_quality(folds, name, quality, "refined"))), 5)
                for name in WhoseWeights
            }
            results.append(QualityResult(len(taught), round(float(np.mean(taught)), 5), refined))
    return tuple(results)


def _of_quality(
    folds: Sequence[FoldMarks], name: WhoseWeights, quality: int, whose: Literal["teacher", "refined"]
) -> list[float]:
    every = (marks[name] for marks in folds)
    return [
        value for each in every for at, value in zip(each.qualities, getattr(each, whose), strict=True) if at == quality
    ]


def _reason(chosen: WhoseWeights, results: Sequence[QualityResult]) -> str:
    if not results:
        return "no held-out image has an instance that could be measured"
    instances = max(each.instances for each in results)
    if chosen is WhoseWeights.SHIPPED:
        return f"no others refine {words.count(instances, 'held-out instance')} better without harm"
    gain = words.signed(100 * pooled_gain(results, chosen), 1)
    return f"{gain} points of mask IoU on {words.count(instances, 'held-out instance')}"


def _on_cpu(state: State) -> State:
    return {name: value.cpu() for name, value in state.items()}
