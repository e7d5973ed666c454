"""Reads the figures of an ablation: the accuracy of each cell, and the results that cells share."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.ablation.cells import CEILING, MEASURED, SUPERVISED, Unit
from pipeline.evaluation.results import EVALUATION, Evaluation, read_evaluation
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.workflow.graph import STAGES
from pipeline.workflow.seals import Seal


@dataclass(frozen=True)
class SeedFigures:
    """One cell with one seed. model: the node of the measured model. Figures are in 0..1; IoUs are of masks.

    cityscapes_ap: Cityscapes' instance AP; None if it was not measured.
    """

    seed: int
    model: str
    ap: float | None
    ap_50: float | None
    ap_75: float | None
    boundary_ap: float | None
    label_iou_before: float | None
    label_iou_after: float | None
    cityscapes_ap: float | None = None


@dataclass(frozen=True)
class Spread:
    """A figure over seeds. deviation: the standard deviation of the sample; None for a single seed."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class CellFigures:
    """One row of the table.

    seeds: the measured ones; missing: those not measured yet.
    gain: the mask AP minus that of `supervised` with the same seed.
    gap_closed: the share of the difference between `supervised` and `ceiling`, of means over the seeds of all three.
    `supervised` has neither, `ceiling` has no `gap_closed`.
    """

    key: str
    title: str
    about: str
    seeds: tuple[SeedFigures, ...]
    missing: tuple[int, ...]
    gain: Spread | None
    gap_closed: float | None

    def spread(self, name: str) -> Spread | None:
        """Return a figure over the seeds, by the name of its field."""
        return spread(getattr(each, name) for each in self.seeds)


@dataclass(frozen=True)
class StageSharing:
    """One stage over all cells. asked: how often cells need an existing result; made: the number of these results.

    seconds: the time to make them; seconds_saved: the time that making them again for every cell would have taken.
    encoded, encoded_saved: the runs of SAM's encoder, likewise.
    """

    stage: str
    asked: int
    made: int
    seconds: float
    seconds_saved: float
    encoded: int
    encoded_saved: int


@dataclass(frozen=True)
class Ablation:
    """All figures of an ablation. settings: the overrides of every cell, as `KEY=VALUE`."""

    experiment: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[CellFigures, ...]
    sharing: tuple[StageSharing, ...]


def collect(experiment: str, settings: Sequence[str], units: Sequence[Unit]) -> Ablation:
    """Read the figures of all units from the store; units without a result are missing."""
    measured: dict[str, dict[int, SeedFigures]] = {}
    for unit in units:
        found = measured.setdefault(unit.cell.key, {})
        if unit.is_made(MEASURED):
            found[unit.seed] = _figures(unit.seed, read_evaluation(unit.space.result(MEASURED) / EVALUATION))
    seeds = tuple(dict.fromkeys(unit.seed for unit in units))
    aps = {
        key: {seed: each.ap for seed, each in found.items() if each.ap is not None} for key, found in measured.items()
    }
    supervised, ceiling = aps.get(SUPERVISED, {}), aps.get(CEILING, {})
    cells = tuple(
        CellFigures(
            key=cell.key,
            title=cell.title,
            about=cell.about,
            seeds=tuple(measured[cell.key].values()),
            missing=tuple(seed for seed in seeds if seed not in measured[cell.key]),
            gain=None if cell.key == SUPERVISED else _gain(aps[cell.key], supervised),
            gap_closed=None if cell.key in (SUPERVISED, CEILING) else _gap_closed(aps[cell.key], supervised, ceiling),
        )
        for cell in dict.fromkeys(unit.cell for unit in units)
    )
    return Ablation(experiment, tuple(settings), seeds, cells, _sharing(units))


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return mean and standard deviation of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _figures(seed: int, evaluation: Evaluation) -> SeedFigures:
    """Return the figures of the last student, or of the teacher if there is no student."""
    model = evaluation.models[-1] if evaluation.models else None
    labels = evaluation.pseudo_labels[-1] if evaluation.pseudo_labels else None
    return SeedFigures(
        seed=seed,
        model=model.node if model else "",
        ap=model.mask.ap if model else None,
        ap_50=model.mask.ap_50 if model else None,
        ap_75=model.mask.ap_75 if model else None,
        boundary_ap=model.boundary.ap if model and model.boundary else None,
        label_iou_before=labels.before.paired.mean_iou if labels else None,
        label_iou_after=labels.after.paired.mean_iou if labels else None,
        cityscapes_ap=model.cityscapes.ap if model and model.cityscapes else None,
    )


def _gain(cell: Mapping[int, float], supervised: Mapping[int, float]) -> Spread | None:
    return spread(ap - supervised[seed] for seed, ap in cell.items() if seed in supervised)


def _gap_closed(
    cell: Mapping[int, float], supervised: Mapping[int, float], ceiling: Mapping[int, float]
) -> float | None:
    common = [seed for seed in cell if seed in supervised and seed in ceiling]
    if not common:
        return None
    reached, low, high = (statistics.fmean(each[seed] for seed in common) for each in (cell, supervised, ceiling))
    # Without a difference between few and all labels there is no gap.
    return (reached - low) / (high - low) if high > low else None


def _sharing(units: Sequence[Unit]) -> tuple[StageSharing, ...]:
    asked: Counter[tuple[str, str]] = Counter()
    seals: dict[tuple[str, str], Seal] = {}
    for unit in units:
        for key in unit.nodes:
            fingerprint = unit.space.fingerprints[key]
            result = (fingerprint.stage, fingerprint.id)
            if result not in seals and (seal := unit.space.store.seal_of(*result)) is not None:
                seals[result] = seal
            asked[result] += 1
    by_stage = {
        stage: [(seal, asked[result]) for result, seal in seals.items() if result[0] == stage] for stage in STAGES
    }
    return tuple(_stage_sharing(stage, results) for stage, results in by_stage.items() if results)


def _stage_sharing(stage: str, results: Sequence[tuple[Seal, int]]) -> StageSharing:
    return StageSharing(
        stage=stage,
        asked=sum(asked for _, asked in results),
        made=len(results),
        seconds=round(sum(seal.seconds for seal, _ in results), 3),
        seconds_saved=round(sum(seal.seconds * (asked - 1) for seal, asked in results), 3),
        encoded=sum(seal.summary.get(ENCODED_IMAGES, 0) for seal, _ in results),
        encoded_saved=sum(seal.summary.get(ENCODED_IMAGES, 0) * (asked - 1) for seal, asked in results),
    )
