"""Makes the parts of an experiment's page: headline, stages, charts and provenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.adaptation.card import Adaptation, report_lines
from pipeline.detection.training_log import TOTAL, TrainingLog
from pipeline.evaluation.intervals import ap_interval, gain_interval
from pipeline.evaluation.measuring import too_short
from pipeline.evaluation.results import PseudoLabelResult
from pipeline.presentation import words
from pipeline.presentation.charts import Distribution, Line, Part, histogram, line_chart, sparkline, stacked_bar
from pipeline.presentation.tables import NEGLIGIBLE, tone
from pipeline.report.gather import Run, StageResult
from pipeline.report.tables import adaptation_table, decision_table, quality_table
from pipeline.workflow.graph import STAGES
from pipeline.workflow.seals import Seal


@dataclass(frozen=True)
class Tile:
    """One figure of the headline; `before` and `change` are empty if nothing is compared."""

    label: str
    value: str
    note: str
    before: str = ""
    change: str = ""
    tone: str = ""


def verdict(run: Run) -> str:
    """Sum up the experiment in one sentence."""
    labelled, unlabelled = run.count("split", "labelled"), run.count("split", "unlabelled")
    images = ""
    if labelled is not None and unlabelled is not None:
        images = f", with {words.count(labelled, 'labelled image')} and {unlabelled:,} unlabelled"
    if run.evaluation is not None and (short := too_short(run.evaluation)):
        return short
    change = _gain(run)
    if change is not None:
        if abs(change) < NEGLIGIBLE:
            return f"The student is on a par with its teacher in mask AP{images}."
        how = "beats its teacher by" if change > 0 else "falls behind its teacher by"
        return f"The student {how} {100 * abs(change):.1f} points of mask AP{images}.{_chance(run)}"
    model = run.student or run.teacher
    if model is not None:
        return f"The {model.role} reaches {words.points(model.mask.ap)} points of mask AP{images}."
    return f"An experiment{images}; its models are not measured." if images else "Not measured yet."


def _chance(run: Run) -> str:
    """Return that a gain may be chance, if other images of the same kind might well show none."""
    between = gain_interval(run.teacher, run.student)
    if run.student is None or between is None or not between[0] <= 0 <= between[1]:
        return ""
    return (
        f" On only {words.count(run.student.images, 'image')} that may be chance: 95 % of redrawn image sets give "
        f"{words.interval(between, signed_ends=True)}."
    )


def tiles(run: Run) -> tuple[Tile, ...]:
    """Return the figures of the headline."""
    return tuple(
        tile for tile in (_precision_tile(run), _quality_tile(run), _images_tile(run), _time_tile(run)) if tile
    )


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """Return all stages in the order in which they run. share: of the time of the longest stage, 0 to 1."""
    longest = max((each.seal.seconds for each in run.stages if each.seal), default=0.0) or 1.0
    return [_stage_row(each, longest) for each in run.stages]


def adaptation(card: Adaptation) -> dict[str, Any]:
    """Return what was tried to fit SAM to the labels, and what was chosen."""
    lines = [f"{line[0].upper()}{line[1:]}." for line in report_lines(card)]
    return {"lines": lines, "results": adaptation_table(card) if card.results else None}


def round_quality(result: PseudoLabelResult) -> dict[str, Any]:
    """Return the charts and tables of the labels of one round."""
    distributions = [
        Distribution(name, name, quality.iou_histogram, quality.paired.mean_iou)
        for name, quality in (("before", result.before), ("after", result.after))
    ]
    title = (
        f"Mask IoU of {result.paired} instances before and after refinement; "
        f"mean {words.share(result.before.paired.mean_iou)} before, {words.share(result.after.paired.mean_iou)} after"
    )
    parts = [Part(str(each.decision), f"fill-{each.decision}", each.instances) for each in result.decisions]
    accuracy = "" if result.class_accuracy is None else f", {words.percent(result.class_accuracy)} with the right class"
    failed = f"; {words.count(result.failed_images, 'image')} could not be used" if result.failed_images else ""
    return {
        "number": result.round,
        "measured": f"{result.paired:,} of {words.count(result.before.labels, 'label')} match one of "
        f"{words.count(result.truths, 'true instance')} in {words.count(result.images, 'image')}{accuracy}{failed}."
        f"{_doubted(result)}",
        "chart": histogram(distributions, "instances by mask IoU", title),
        "bar": stacked_bar(parts, "; ".join(f"{part.name}: {part.count}" for part in parts)),
        "figures": quality_table(result),
        "decisions": decision_table(result),
    }


def _doubted(result: PseudoLabelResult) -> str:
    """Return what similar labelled instances say of the classes; empty if they were not asked."""
    check = result.class_check
    if check is None:
        return ""
    told = f" Similar labelled instances doubt the class of {check.doubted:,} of {words.count(check.checked, 'label')}"
    if check.accuracy is None:
        return f"{told}."
    return (
        f"{told}. The right class have {words.percent(check.accuracy)} as they are, "
        f"{words.percent(check.accuracy_corrected)} with the doubted ones corrected, "
        f"{words.percent(check.accuracy_without)} of the others."
    )


def training(key: str, log: TrainingLog) -> dict[str, Any]:
    """Draw the curves of a training: the sum of the losses large, each of its parts small."""
    curve_tone = "before" if key == "train-teacher" else "after"
    title = f"{key}: loss over {log.iterations} iterations"
    total = log.losses.get(TOTAL)
    parts = [
        (name, f"{log.last.get(name, points[-1][1]):.3f}", sparkline(points, curve_tone, f"{key}: {name}"))
        for name, points in log.losses.items()
        if name != TOTAL
    ]
    if log.learning_rate:
        rate = log.learning_rate[-1][1]
        chart = sparkline(log.learning_rate, "quiet", f"{key}: learning rate", noisy=False)
        parts.append(("learning rate", f"{rate:.2g}", chart))
    note = f"{words.count(log.unreadable, 'line')} of the log cannot be read." if log.unreadable else ""
    large = line_chart([Line(TOTAL, curve_tone, total)], "loss by iteration", title) if total else None
    return {"key": key, "iterations": log.iterations, "total": large, "parts": parts, "note": note}


def provenance(run: Run) -> list[dict[str, Any]]:
    """Return what every result was made from: names and values in groups with a title."""
    return [_artefact(each.node.key, each.seal) for each in run.stages if each.seal is not None]


def _gain(run: Run) -> float | None:
    if run.teacher is None or run.student is None:
        return None
    return words.difference(run.teacher.mask.ap, run.student.mask.ap)


def _precision_tile(run: Run) -> Tile | None:
    model = run.student or run.teacher
    if model is None:
        return None
    note = f"measured on {words.count(model.images, 'image')}"
    if (between := ap_interval(model)) is not None:
        note += f"; 95 % of redrawn image sets give {words.interval(between)}"
    if model.failed_images:
        note += f"; {model.failed_images:,} unreadable, counted as missed"
    if run.teacher is None or run.student is None:
        return Tile(f"mask AP of the {model.role}", words.points(model.mask.ap), note)
    gain = _gain(run)
    if run.evaluation is not None and too_short(run.evaluation):
        trained = words.count(run.student.iterations, "iteration")
        return Tile("mask AP of the student", words.points(model.mask.ap), f"after {trained}: too few to measure")
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
    of_round = f", round {result.round}" if result.round > 1 else ""
    return Tile(
        label="mean mask IoU, before → after",
        before=words.share(before),
        value=words.share(after),
        change=words.signed(change, 3),
        tone=tone(change),
        note=f"{words.count(result.paired, 'instance')} with a known truth{of_round}",
    )


def _images_tile(run: Run) -> Tile | None:
    labelled, unlabelled = run.count("split", "labelled"), run.count("split", "unlabelled")
    if labelled is None or unlabelled is None:
        return None
    validation = run.count("split", "validation")
    more = f", {validation:,} for validation" if validation else ""
    return Tile("images", f"{labelled + unlabelled:,}", f"{labelled:,} labelled, {unlabelled:,} unlabelled{more}")


def _time_tile(run: Run) -> Tile | None:
    if not run.seconds:
        return None
    note = "for all stages"
    refined = {each.node.key: each.seal for each in run.stages if each.node.stage == "refine" and each.seal is not None}
    if refined:
        seconds = sum(seal.seconds for seal in refined.values())
        images = sum(run.count(key, "images") or 0 for key in refined)
        note = f"including {words.duration(seconds)} in which SAM refined {words.count(images, 'image')}"
    return Tile("time", words.duration(run.seconds), note)


def _stage_row(stage: StageResult, longest: float) -> dict[str, Any]:
    seal, key = stage.seal, stage.node.key
    if seal is None:
        return {"key": key, "skipped": stage.node.skipped or "it has not run"}
    plain = {name: value for name, value in seal.summary.items() if isinstance(value, int | float | str)}
    return {
        "key": key,
        "skipped": "",
        "purpose": STAGES[seal.stage].purpose,
        "figures": words.figures(plain, seal.stage),
        "duration": words.duration(seal.seconds),
        "share": seal.seconds / longest,
    }


def _artefact(key: str, seal: Seal) -> dict[str, Any]:
    made_by = dict(seal.made_by)
    by = " of ".join(made_by.pop(name) for name in ("user", "experiment") if name in made_by)
    host, precision = made_by.pop("host", ""), made_by.pop("precision", "")
    facts = {
        "fingerprint": seal.id,
        "content": seal.digest,
        "made": f"{seal.made_at}, in {words.duration(seal.seconds)}",
        "by": f"{by}, on {host}" if host else by,
        "size": f"{words.size(seal.size_bytes)} in {words.count(seal.files, 'file')}",
        **({"precision of models": precision} if precision else {}),
    }
    fingerprint = seal.fingerprint
    groups = {
        "Result": facts,
        "Settings": fingerprint.get("settings", {}),
        "Made from": {**fingerprint.get("inputs", {}), **fingerprint.get("upstream", {})},
        "Libraries": made_by,
    }
    shown = {title: {name: words.setting(value) for name, value in group.items()} for title, group in groups.items()}
    return {"key": key, "id": seal.id, "groups": shown}
