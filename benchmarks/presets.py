"""Measure which way of prompting SAM improves a teacher's masks: every preset, and prompts x choices x gates.

    python -m benchmarks.presets --annotations FILE --images FOLDER [--limit 60] [--presets-only | --signs]

The teacher is imitated, unless `--labels` names the label store of a real one: every true mask becomes a coarse
28 x 28 probability map in a slightly wrong box, as a detector's mask head gives it, with smooth noise of strength
`--noise` that removes and adds parts. The gates are calibrated on a fifth of the images, which are not measured.
Prints Markdown: mean IoU, boundary IoU and the shares of masks with an IoU of at least 0.75 and 0.9, sorted by mean
IoU; the first line is the teacher's masks. With `--signs`, it prints what `refine` says without truth for every
preset without a gate, with and without smoothing, beside the IoU before and after.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.adaptation.encoding import EncodedOnce
from pipeline.adaptation.imitated_teacher import imitated_label
from pipeline.coco.model import CocoDataset
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.files.images import read_image
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.boundaries import Border, border_iou
from pipeline.masks.matching import match_to_truth
from pipeline.masks.overlap import area_match, rle_iou
from pipeline.masks.roughness import roughness
from pipeline.masks.run_lengths import CompressedRle
from pipeline.refinement.calibrate import GateSample, calibrate
from pipeline.refinement.effect import RECOGNISED_FROM
from pipeline.refinement.gate import Gate, Measures, fixed_gate
from pipeline.refinement.image import RefineInput, refine_images
from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.refinement.samples import MATCH_IOU
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.worker import SamChoice, build_engine

PROMPTS: dict[str, dict[str, Any]] = {
    "3 points": {"points": 3},
    "centre": {"points": 0, "center_point": True},
    "tight box": {"points": 0, "box": "tight"},
    "elastic box": {"points": 0, "box": "elastic"},
    "mask": {"points": 0, "mask_prompt": True},
    "3 points, box": {"points": 3, "box": "elastic"},
    "centre, background, box": {"points": 0, "center_point": True, "background_point": True, "box": "elastic"},
    "box, mask": {"points": 0, "box": "elastic", "mask_prompt": True},
    "3 points, mask": {"points": 3, "mask_prompt": True},
    "3 points, box, mask": {"points": 3, "box": "elastic", "mask_prompt": True},
    "centre, box, mask": {"points": 0, "center_point": True, "box": "elastic", "mask_prompt": True},
    "all": {"points": 3, "center_point": True, "background_point": True, "box": "elastic", "mask_prompt": True},
}
PASSES = (1, 2)
CHOICES = ("predicted_iou", "agreement", "product")


@dataclass(frozen=True)
class MaskQuality:
    """One mask against its truth, both in 0..1."""

    iou: float
    boundary_iou: float


@dataclass(frozen=True)
class Case:
    """An image with a teacher's labels, the truth of each, and the quality of the teacher's masks."""

    given: RefineInput
    truths: tuple[CompressedRle, ...]
    before: tuple[MaskQuality, ...]


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    name: str
    qualities: tuple[MaskQuality, ...]
    sam_share: float

    @property
    def mean_iou(self) -> float:
        """Return the mean IoU of the masks."""
        return float(np.mean([quality.iou for quality in self.qualities]))


def measure(mask: CompressedRle, truth: CompressedRle) -> MaskQuality:
    """Compare a mask with its truth."""
    return MaskQuality(rle_iou(mask, truth), border_iou(Border.of_rle(mask), Border.of_rle(truth)))


def make_cases(dataset: CocoDataset, folder: Path, noise: float, seed: int) -> Iterator[Case]:
    """Yield the images with labels of the imitated teacher, without masks of fewer than SMALLEST_PX pixels."""
    for image in dataset.images:
        labels, truths = [], []
        for annotation in dataset.instances(image.id):
            rng = np.random.default_rng([seed, image.id, annotation.id])
            label = imitated_label(dataset.mask(annotation), annotation.category_id, noise, rng)
            if label is None:
                continue
            labels.append(label)
            truths.append(dataset.rle(annotation))
        if not labels:
            continue
        pixels = read_image(resolve_image_path(folder, image.file_name), (image.width, image.height))
        rows = ImageLabels.of_instances(image.id, image.file_name, image.width, image.height, tuple(labels))
        before = tuple(measure(rows.rle(label), truth) for label, truth in zip(labels, truths, strict=True))
        yield Case(RefineInput(pixels, rows), tuple(truths), before)


def cases_of_store(store: LabelStore, dataset: CocoDataset, folder: Path) -> Iterator[Case]:
    """Yield the images with those labels of a real teacher that overlap a true instance."""
    for image in dataset.images:
        rows = store.by_id(image.id)
        truths = [dataset.rle(each) for each in dataset.instances(image.id)]
        matches = match_to_truth([rows.rle(label) for label in rows.instances], truths, MATCH_IOU)
        pairs = [
            (label, truths[match]) for label, match in zip(rows.instances, matches, strict=True) if match is not None
        ]
        if not pairs:
            continue
        pixels = read_image(resolve_image_path(folder, image.file_name), (image.width, image.height))
        shown = replace(rows, instances=tuple(label for label, _ in pairs))
        before = tuple(measure(rows.rle(label), truth) for label, truth in pairs)
        yield Case(RefineInput(pixels, shown), tuple(truth for _, truth in pairs), before)


@dataclass(frozen=True)
class Outcome:
    """One instance: the gate's measures, and the quality of both masks."""

    measures: Measures
    teacher: MaskQuality
    sam: MaskQuality

    def sample(self) -> GateSample:
        """Return the instance as input of the calibration."""
        seen = self.measures
        return GateSample(
            seen.agreement, seen.predicted_iou, seen.stability, seen.area_match, self.teacher.iou, self.sam.iou
        )

    def gated(self, gate: Gate) -> tuple[MaskQuality, bool]:
        """Return the quality of the mask that the gate chooses, and whether it is SAM's."""
        takes_sam = gate.judge(self.measures)[0] is Decision.SAM
        return (self.sam if takes_sam else self.teacher), takes_sam


def outcomes_of(cases: Sequence[Case], engine: EncodedOnce, settings: RefineSettings) -> list[Outcome]:
    """Refine all cases without a gate; where SAM finds no pixel the teacher's mask counts as SAM's."""
    outcomes = []
    for case in cases:
        rows = case.given.labels
        (refined,) = refine_images([case.given], engine, settings, Gate())
        for taught, label, truth, before in zip(
            rows.instances, refined.labels.instances, case.truths, case.before, strict=True
        ):
            assert label.agreement is not None
            assert label.predicted_iou is not None
            assert label.stability is not None
            matched = area_match(label.area, taught.area)
            measures = Measures(label.agreement, label.predicted_iou, label.stability, matched)
            outcomes.append(Outcome(measures, before, measure(rows.rle(label), truth)))
    return outcomes


def signs_table(cases: Sequence[Case], engine: EncodedOnce) -> str:
    """Return a Markdown table: what is known without truth of refined masks, and their quality."""
    rows = [
        "| preset | smoothing | IoU | boundary IoU | mean agreement | beyond recognition | roughness |",
        "|---|---|---|---|---|---|---|",
    ]
    before = np.mean([quality.iou for case in cases for quality in case.before])
    rough_before = _mean_roughness(_masks(case.given.labels for case in cases))
    for name, cells in product(REFINE_PRESETS, (0.0, 0.5)):
        settings = RefineSettings.model_validate({"preset": name, "smoothing_cells": cells})
        refined = [refine_images([case.given], engine, settings, Gate())[0].labels for case in cases]
        rough_after = _mean_roughness(_masks(refined))
        pairs = [
            (labels.rle(label), truth)
            for labels, case in zip(refined, cases, strict=True)
            for label, truth in zip(labels.instances, case.truths, strict=True)
        ]
        qualities = [measure(mask, truth) for mask, truth in pairs]
        agreement = np.array([label.agreement for labels in refined for label in labels.instances], np.float64)
        rows.append(
            f"| {name} | {cells:g} | {before:.3f} → {np.mean([each.iou for each in qualities]):.3f} "
            f"| {np.mean([each.boundary_iou for each in qualities]):.3f} | {agreement.mean():.2f} "
            f"| {(agreement < RECOGNISED_FROM).mean():.1%} | {rough_before:.2f} → {rough_after:.2f} |"
        )
    return "\n".join(rows)


def _masks(images: Iterable[ImageLabels]) -> Iterator[CompressedRle]:
    return (labels.rle(label) for labels in images for label in labels.instances)


def _mean_roughness(masks: Iterable[CompressedRle]) -> float:
    return float(np.mean([each for each in map(roughness, masks) if each is not None]))


def lines_of(
    name: str, measured: Sequence[Outcome], calibration: Sequence[Outcome], gates: dict[str, Gate]
) -> Iterator[Line]:
    """Yield a line for every gate, the calibrated gate last, all on the same masks."""
    fitted = calibrate([outcome.sample() for outcome in calibration], gates["fixed"]).gate
    for gate_name, gate in {**gates, "calibrated": fitted}.items():
        chosen = [outcome.gated(gate) for outcome in measured]
        sam_share = sum(takes_sam for _, takes_sam in chosen) / len(chosen)
        yield Line(f"{name}, gate {gate_name}", tuple(quality for quality, _ in chosen), sam_share)


def configurations(presets_only: bool, zoom_below_px: int) -> dict[str, RefineSettings]:
    """Return the settings to compare, by name; each is measured with every gate."""
    named = {f"**{name}**": RefineSettings.model_validate({"preset": name}) for name in REFINE_PRESETS}
    if presets_only:
        return named
    for (name, prompt), passes, choice in product(PROMPTS.items(), PASSES, CHOICES):
        named[f"{name}, {passes} pass{'es' * (passes > 1)}, {choice}"] = RefineSettings(
            preset="s4m", **prompt, passes=passes, choice=choice, largest_component=True, zoom_below_px=zoom_below_px
        )
    return named


def table(lines: Sequence[Line]) -> str:
    """Return the Markdown table, sorted by mean IoU after the first line."""
    first, *rest = lines
    rows = ["| masks | mean IoU | boundary IoU | ≥ 0.75 | ≥ 0.9 | SAM's |", "|---|---|---|---|---|---|"]
    for line in [first, *sorted(rest, key=lambda each: -each.mean_iou)]:
        ious = np.array([quality.iou for quality in line.qualities])
        boundary_iou = np.mean([quality.boundary_iou for quality in line.qualities])
        rows.append(
            f"| {line.name} | {line.mean_iou:.3f} | {boundary_iou:.3f} | {(ious >= 0.75).mean():.0%} "
            f"| {(ious >= 0.9).mean():.0%} | {line.sam_share:.0%} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instance annotations")
    parser.add_argument("--images", type=Path, required=True, help="the folder that their file names start from")
    parser.add_argument("--limit", type=int, default=60, help="images, drawn at random")
    parser.add_argument("--instances", type=int, default=12, help="most instances per image, drawn at random")
    parser.add_argument("--labels", type=Path, help="a teacher's label store, instead of imitated labels")
    parser.add_argument("--noise", type=float, default=0.7, help="how wrong the imitated teacher is")
    parser.add_argument("--zoom-below-px", type=int, default=32, help="for the grid; presets have their own")
    parser.add_argument("--sam", default="sam_tiny")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--presets-only", action="store_true")
    parser.add_argument("--signs", action="store_true", help="what is known without truth, instead of gates")
    arguments = parser.parse_args()

    engine = EncodedOnce(build_engine(SamChoice(arguments.sam, arguments.checkpoint, "cpu", "fp32", batch_images=1)))
    dataset = read_coco(arguments.annotations)
    store = LabelStore.open(arguments.labels) if arguments.labels else None
    if store is not None:
        dataset = dataset.subset(set(store.image_ids.tolist()) & set(dataset.image_by_id))
    dataset = drawn_images(dataset, arguments.limit, arguments.instances, arguments.seed)
    if store is not None:
        teacher = f"labels of {arguments.labels}"
        cases = list(cases_of_store(store, dataset, arguments.images))
    else:
        teacher = f"noise {arguments.noise:g}"
        cases = list(make_cases(dataset, arguments.images, arguments.noise, arguments.seed))
    calibration_cases, measured_cases = cases[::5], [case for index, case in enumerate(cases) if index % 5]
    if arguments.signs:
        truth = _mean_roughness(truth for case in cases for truth in case.truths)
        print(f"{arguments.sam} on {arguments.annotations.name}, {len(cases)} images, {teacher}")
        print(f"roughness of the truth: {truth:.2f}\n")
        print(signs_table(cases, engine))
        return
    before = [quality for case in measured_cases for quality in case.before]
    lines = [Line("teacher", tuple(before), 0.0)]
    started = time.perf_counter()
    for name, settings in configurations(arguments.presets_only, arguments.zoom_below_px).items():
        measured = outcomes_of(measured_cases, engine, settings)
        calibration = outcomes_of(calibration_cases, engine, settings)
        lines += lines_of(name, measured, calibration, {"none": Gate(), "fixed": fixed_gate(settings)})
    seconds = time.perf_counter() - started
    calibrating = sum(len(case.before) for case in calibration_cases)
    print(
        f"{arguments.sam} on {arguments.annotations.name}: {len(before)} instances of {len(measured_cases)} images, "
        f"{teacher}; gates calibrated on {calibrating} others. {seconds:.0f} s.\n"
    )
    print(table(lines))


def drawn_images(dataset: CocoDataset, images: int, instances: int, seed: int) -> CocoDataset:
    """Return at most so many images with instances, and so many instances of each, drawn at random."""
    rng = np.random.default_rng(seed)
    ids = sorted(image_id for image_id, annotations in dataset.annotations_by_image.items() if annotations)
    drawn = dataset.subset(int(image_id) for image_id in rng.permutation(ids)[:images])
    kept = []
    for of_image in drawn.annotations_by_image.values():
        kept += [of_image[index] for index in sorted(rng.permutation(len(of_image))[:instances])]
    return replace(drawn, annotations=tuple(kept))


if __name__ == "__main__":
    main()
