"""The figures of an ablation: what each cell reached, and what its cells had in common."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.ablation.cells import CEILING, SUPERVISED
from pipeline.ablation.units import MEASURED, Unit
from pipeline.evaluation.results import EVALUATION, Evaluation, read_evaluation
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.workflow.graph import STAGES
from pipeline.workflow.result_store import Seal


@dataclass(frozen=True)
class SeedFigures:
    """One cell with one seed. model: the node of the model that was measured. Figures are in 0..1; IoU of masks."""

    seed: int
    model: str
    ap: float | None
    ap_50: float | None
    ap_75: float | None
    boundary_ap: float | None
    label_iou_before: float | None
    label_iou_after: float | None


@dataclass(frozen=True)
class Spread:
    """Over seeds. deviation: the standard deviation of the sample; none for a single seed."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class CellFigures:
    """One row of the table.

    seeds: those that are measured; missing: those that are not yet.
    gain: mask AP over that of `supervised` with the same seed.
    gap_closed: of the way from `supervised` to `ceiling`, the share; of means over the seeds that all three have.
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
        """A figure over the seeds, by the name of its field."""
        return spread(getattr(each, name) for each in self.seeds)


@dataclass(frozen=True)
class StageSharing:
    """One stage over all cells. asked: how often a cell needed a result that is there; made: how many there are.

    seconds: what these took to make; seconds_saved: what it would have taken to make them again for every cell.
    encoded, encoded_saved: how often SAM's encoder ran, likewise.
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
    """All figures of an ablation. settings: those set over the experiment in every cell, as `KEY=VALUE`."""

    experiment: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[CellFigures, ...]
    sharing: tuple[StageSharing, ...]


def collect(experiment: str, settings: Sequence[str], units: Sequence[Unit]) -> Ablation:
    """Read what the store has of all units; what is not made yet is missing."""
    measured: dict[str, dict[int, SeedFigures]] = {}
    for unit in units:
        found = measured.setdefault(unit.cell.key, {})
        if unit.is_made(MEASURED):
            found[unit.seed] = _figures(unit.seed, read_evaluation(unit.space.result(MEASURED) / EVALUATION))
    seeds = tuple(dict.fromkeys(unit.seed for unit in units))
    aps = {key: _aps(found) for key, found in measured.items()}
    cells = tuple(
        CellFigures(
            key=cell.key,
            title=cell.title,
            about=cell.about,
            seeds=tuple(measured[cell.key].values()),
            missing=tuple(seed for seed in seeds if seed not in measured[cell.key]),
            gain=None if cell.key == SUPERVISED else _gain(aps[cell.key], aps.get(SUPERVISED, {})),
            gap_closed=None
            if cell.key in (SUPERVISED, CEILING)
            else _gap_closed(aps[cell.key], aps.get(SUPERVISED, {}), aps.get(CEILING, {})),
        )
        for cell in dict.fromkeys(unit.cell for unit in units)
    )
    return Ablation(experiment, tuple(settings), seeds, cells, _sharing(units))


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and standard deviation of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _figures(seed: int, evaluation: Evaluation) -> SeedFigures:
    """Of the last student, or of the teacher where there is none."""
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
    )


def _aps(found: Mapping[int, SeedFigures]) -> dict[int, float]:
    return {seed: each.ap for seed, each in found.items() if each.ap is not None}


def _gain(cell: Mapping[int, float], supervised: Mapping[int, float]) -> Spread | None:
    return spread(ap - supervised[seed] for seed, ap in cell.items() if seed in supervised)


def _gap_closed(
    cell: Mapping[int, float], supervised: Mapping[int, float], ceiling: Mapping[int, float]
) -> float | None:
    common = [seed for seed in cell if seed in supervised and seed in ceiling]
    if not common:
        return None
    reached, low, high = (statistics.fmean(each[seed] for seed in common) for each in (cell, supervised, ceiling))
    # Where all labels are no better than few, there is no way to be gone.
    return (reached - low) / (high - low) if high > low else None


def _sharing(units: Sequence[Unit]) -> tuple[StageSharing, ...]:
    """What is made, by stage, and how often it served."""
    asked: dict[tuple[str, str], int] = {}
    seals: dict[tuple[str, str], Seal] = {}
    for unit in units:
        for key in unit.nodes:
            fingerprint = unit.space.fingerprints[key]
            result = (fingerprint.stage, fingerprint.id)
            if result not in seals:
                seal = unit.space.store.seal_of(*result)
                if seal is None:
                    continue
                seals[result] = seal
            asked[result] = asked.get(result, 0) + 1
    return tuple(
        _stage_sharing(stage, [(seal, asked[result]) for result, seal in seals.items() if result[0] == stage])
        for stage in STAGES
        if any(result[0] == stage for result in seals)
    )


def _stage_sharing(stage: str, results: Sequence[tuple[Seal, int]]) -> StageSharing:
    return StageSharing(
        stage=stage,
        asked=sum(asked for _, asked in results),
        made=len(results),
        seconds=round(sum(seal.seconds for seal, _ in results), 3),
        seconds_saved=round(sum(seal.seconds * (asked - 1) for seal, asked in results), 3),
        encoded=sum(_encoded(seal) for seal, _ in results),
        encoded_saved=sum(_encoded(seal) * (asked - 1) for seal, asked in results),
    )


def _encoded(seal: Seal) -> int:
    count = seal.summary.get(ENCODED_IMAGES, 0)
    return count if isinstance(count, int) else 0
