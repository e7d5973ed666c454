"""The parts of an experiment's page, made from what was gathered: headline, stages, charts, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from pipeline.detection.training_log import TOTAL, TrainingLog
from pipeline.evaluation.results import PseudoLabelResult
from pipeline.labels.label_columns import STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Status
from pipeline.presentation import words
from pipeline.presentation.charts import Distribution, Line, Part, histogram, line_chart, sparkline, stacked_bar
from pipeline.presentation.tables import Table, tone
from pipeline.report.gather import Run, StageResult
from pipeline.report.tables import decision_table, quality_table
from pipeline.structure.target_store import StructureStore

_MOST_FAILURES: Final = 50


@dataclass(frozen=True)
class Tile:
    """One figure of the headline strip; `before` and `change` are empty where nothing is compared."""

    label: str
    value: str
    note: str
    before: str = ""
    change: str = ""
    tone: str = ""


@dataclass(frozen=True)
class StageRow:
    """What one stage did. share: of the longest stage's time, 0 to 1."""

    key: str
    purpose: str
    figures: str
    duration: str
    share: float
    skipped: str


@dataclass(frozen=True)
class Artefact:
    """Where one result comes from, as pairs of names and values."""

    key: str
    id: str
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str], ...]
    libraries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RoundQuality:
    """The pseudo-labels of one round."""

    number: int
    measured: str
    chart: Markup
    bar: Markup
    figures: Table
    decisions: Table


@dataclass(frozen=True)
class TrainingCurves:
    """The curves of one training."""

    key: str
    iterations: int
    total: Markup | None
    parts: tuple[tuple[str, str, Markup], ...]
    note: str


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, or a composite that could not be made; `kind` says which images it is of."""

    kind: str
    stage: str
    file_name: str
    reason: str


def verdict(run: Run) -> str:
    """The experiment in one sentence."""
    labelled, unlabelled = run.count("split", "labelled"), run.count("split", "unlabelled")
    images = ""
    if labelled is not None and unlabelled is not None:
        images = f", with {words.count(labelled, 'labelled image')} and {unlabelled:,} unlabelled"
    change = _gain(run)
    if change is not None:
        if abs(change) < 0.0005:
            return f"The student is on a par with its teacher in mask AP{images}."
        how = "beats its teacher by" if change > 0 else "falls behind its teacher by"
        return f"The student {how} {100 * abs(change):.1f} points of mask AP{images}."
    model = run.student or run.teacher
    if model is not None:
        return f"The {model.role} reaches {words.points(model.mask.ap)} points of mask AP{images}."
    return f"An experiment{images}; its models have not been measured." if images else "Not measured yet."


def tiles(run: Run) -> tuple[Tile, ...]:
    """The headline strip."""
    return tuple(
        tile for tile in (_precision_tile(run), _quality_tile(run), _images_tile(run), _time_tile(run)) if tile
    )


def stage_rows(run: Run) -> tuple[StageRow, ...]:
    """All stages in the order in which they run."""
    longest = max((each.seal.seconds for each in run.stages if each.seal), default=0.0) or 1.0
    return tuple(_stage_row(each, longest) for each in run.stages)


def round_quality(result: PseudoLabelResult) -> RoundQuality:
    """Distributions and tables of one round's labels."""
    pairs = (("before", result.before), ("after", result.after))
    distributions = [
        Distribution(name, name, quality.iou_histogram, quality.paired.mean_iou) for name, quality in pairs
    ]
    title = (
        f"Mask IoU of {result.paired} instances before and after refinement, in 20 bins; "
        f"mean {words.share(result.before.paired.mean_iou)} before, {words.share(result.after.paired.mean_iou)} after"
    )
    parts = [Part(str(each.decision), f"fill-{each.decision}", each.instances) for each in result.decisions]
    accuracy = "" if result.class_accuracy is None else f", {words.percent(result.class_accuracy)} with the right class"
    failed = f"; {words.count(result.failed_images, 'image')} could not be used" if result.failed_images else ""
    return RoundQuality(
        number=result.round,
        measured=f"{result.paired:,} of {words.count(result.before.labels, 'label')} show one of "
        f"{words.count(result.truths, 'true instance')} in {words.count(result.images, 'image')}{accuracy}{failed}.",
        chart=histogram(distributions, "instances by mask IoU", title),
        bar=stacked_bar(parts, "; ".join(f"{part.name}: {part.count}" for part in parts)),
        figures=quality_table(result),
        decisions=decision_table(result),
    )


def training(key: str, log: TrainingLog) -> TrainingCurves:
    """The curves of a training: the sum of the losses large, every part of it small."""
    curve_tone = "before" if key == "train-teacher" else "after"
    title = f"{key}: loss over {log.iterations} iterations"
    total = log.losses.get(TOTAL)
    parts = [
        (name, f"{points[-1][1]:.3g}", sparkline(points, curve_tone, f"{key}: {name}"))
        for name, points in log.losses.items()
        if name != TOTAL
    ]
    if log.learning_rate:
        rate = log.learning_rate[-1][1]
        chart = sparkline(log.learning_rate, "quiet", f"{key}: learning rate", noisy=False)
        parts.append(("learning rate", f"{rate:.2g}", chart))
    note = f"{words.count(log.unreadable, 'line')} of the log cannot be read." if log.unreadable else ""
    return TrainingCurves(
        key=key,
        iterations=log.iterations,
        total=line_chart([Line(TOTAL, curve_tone, total)], "loss by iteration", title) if total else None,
        parts=tuple(parts),
        note=note,
    )


def summed_up(failures: Iterable[Failure]) -> tuple[tuple[Failure, ...], str]:
    """The first failures, an image once however many stages it failed in, and how many of each kind there are."""
    first: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        first.setdefault((failure.kind, failure.file_name), failure)
    kinds = Counter(kind for kind, _ in first)
    counted = ", ".join(words.count(count, kind) for kind, count in kinds.items())
    if len(first) > _MOST_FAILURES:
        counted += f"; the first {_MOST_FAILURES} are listed"
    return tuple(first.values())[:_MOST_FAILURES], counted


def failed_labels(store: LabelStore, stage: str, kind: str) -> Iterator[Failure]:
    """The images of a label store that failed."""
    if not store.attributes.statuses.get(str(Status.FAILED)):
        return
    statuses = store.column("images/status")
    places = (statuses == STATUSES.index(Status.FAILED)).nonzero()[0].tolist()
    for row in (store[place] for place in places):
        yield Failure(kind, stage, row.file_name, row.message)


def failed_targets(store: StructureStore, stage: str) -> Iterator[Failure]:
    """The images of a store of structural targets that failed."""
    for row in store.failed():
        yield Failure("labelled image", stage, row.file_name, row.message)


def artefacts(run: Run) -> tuple[Artefact, ...]:
    """Where every result comes from."""
    return tuple(_artefact(each) for each in run.stages if each.seal is not None)


def _gain(run: Run) -> float | None:
    if run.teacher is None or run.student is None:
        return None
    return words.difference(run.teacher.mask.ap, run.student.mask.ap)


def _precision_tile(run: Run) -> Tile | None:
    model = run.student or run.teacher
    if model is None:
        return None
    note = f"measured on {words.count(model.images, 'image')}"
    if model.failed_images:
        note += f"; {model.failed_images:,} unreadable, counted as missed"
    if run.teacher is None or run.student is None:
        return Tile(f"mask AP of the {model.role}", words.points(model.mask.ap), note)
    gain = _gain(run)
    return Tile(
        label="mask AP, teacher → student",
        before=words.points(run.teacher.mask.ap),
        value=words.points(run.student.mask.ap),
        change=words.signed(None if gain is None else 100 * gain, 1),
        tone=tone(gain),
        note=note,
    )


def _quality_tile(run: Run) -> Tile | None:
    result = run.pseudo_labels
    if result is None or not result.paired:
        return None
    before, after = result.before.paired.mean_iou, result.after.paired.mean_iou
    change = words.difference(before, after)
    return Tile(
        label="mean mask IoU, before → after",
        before=words.share(before),
        value=words.share(after),
        change=words.signed(change, 3),
        tone=tone(change),
        note=f"{words.count(result.paired, 'instance')} with a known truth{_of_round(result.round)}",
    )


def _of_round(number: int) -> str:
    """Said where there are several; the first may be the only one."""
    return f", round {number}" if number > 1 else ""


def _images_tile(run: Run) -> Tile | None:
    labelled, unlabelled = run.count("split", "labelled"), run.count("split", "unlabelled")
    if labelled is None or unlabelled is None:
        return None
    validation = run.count("split", "validation")
    more = f", {validation:,} to validate" if validation else ""
    return Tile("images", f"{labelled + unlabelled:,}", f"{labelled:,} labelled, {unlabelled:,} unlabelled{more}")


def _time_tile(run: Run) -> Tile | None:
    if not run.seconds:
        return None
    note = "for all stages"
    refined = [each for each in run.stages if each.node.stage == "refine" and each.seal is not None]
    if refined:
        seconds = sum(each.seal.seconds for each in refined if each.seal)
        images = sum(run.count(each.node.key, "images") or 0 for each in refined)
        note = f"of it {words.duration(seconds)} for SAM to refine {words.count(images, 'image')}"
    return Tile("time", words.duration(run.seconds), note)


def _stage_row(stage: StageResult, longest: float) -> StageRow:
    seal = stage.seal
    return StageRow(
        key=stage.node.key,
        purpose=stage.purpose,
        figures=_figures(seal.summary) if seal else "",
        duration=words.duration(seal.seconds) if seal else "",
        share=seal.seconds / longest if seal else 0.0,
        skipped="" if seal else (stage.node.skipped or "it has not run"),
    )


def _figures(summary: Any) -> str:
    """A summary's plain figures in a line; what is nested is told elsewhere."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {_shown(value)}"
        for name, value in summary.items()
        if isinstance(value, int | float | str)
    )


def _shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value


def _artefact(stage: StageResult) -> Artefact:
    seal = stage.seal
    assert seal is not None  # by the caller
    made_by = dict(seal.made_by)
    by = " of ".join(made_by.pop(name) for name in ("user", "experiment") if name in made_by)
    host = made_by.pop("host", "")
    facts = (
        ("fingerprint", seal.id),
        ("content", seal.digest),
        ("made", f"{seal.made_at}, in {words.duration(seal.seconds)}"),
        ("by", f"{by}, on {host}" if host else by),
        ("size", f"{words.size(seal.size_bytes)} in {words.count(seal.files, 'file')}"),
    )
    fingerprint = seal.fingerprint
    inputs = {**fingerprint.get("inputs", {}), **fingerprint.get("upstream", {})}
    return Artefact(
        key=stage.node.key,
        id=seal.id,
        facts=facts,
        settings=_pairs(fingerprint.get("settings", {})),
        inputs=_pairs(inputs),
        libraries=_pairs(made_by),
    )


def _pairs(values: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name, words.setting(value)) for name, value in values.items())
