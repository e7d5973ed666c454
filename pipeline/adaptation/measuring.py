"""Measure a SAM on labelled images: refine the masks of imitated teachers, and compare them with the true ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.adaptation.gross_errors import with_gross_errors
from pipeline.adaptation.imitated_teacher import imitated_label, noise_of_quality
from pipeline.adaptation.labelled import UsableImages
from pipeline.labels.rows import ImageLabels
from pipeline.masks.overlap import rle_iou
from pipeline.masks.run_lengths import CompressedRle, decode_mask
from pipeline.refinement.gate import Gate
from pipeline.refinement.image import RefineInput, refine_images
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.interface import Engine

QUALITIES: Final = (0.72, 0.86, 0.94)
"""Mean IoU of the imitated teachers' masks without gross errors: a coarse teacher, a good and a very good one."""

MEASURED_IMAGES: Final = 120
MEASURED_INSTANCES: Final = 360
"""Most images and instances that are measured, over all folds."""


@dataclass(frozen=True)
class Exam:
    """An image with masks of imitated teachers, the truth of each, and the index of its teacher's quality."""

    given: RefineInput
    truths: tuple[CompressedRle, ...]
    qualities: tuple[int, ...]


@dataclass(frozen=True)
class Marks:
    """IoUs with the truth, instance by instance: of the teachers' masks and SAM's. qualities: of the teachers."""

    qualities: tuple[int, ...]
    teacher: tuple[float, ...]
    refined: tuple[float, ...]


def noises_of(labelled: UsableImages, seed: int) -> tuple[float, ...]:
    """Return the noise of a teacher of each of the `QUALITIES` on these images."""
    sample = [decode_mask(rle) for image_id in labelled.image_ids[:40] for rle in labelled.masks[image_id][:8]]
    order = np.random.default_rng([seed, len(sample)]).permutation(len(sample))
    masks = [sample[index] for index in order]
    return tuple(noise_of_quality(masks, quality, seed) for quality in QUALITIES)


def make_exams(
    labelled: UsableImages, image_ids: Sequence[int], noises: Sequence[float], seed: int, folds: int
) -> Iterator[Exam]:
    """Yield some of the images with masks of teachers of every noise. folds: number of groups like `image_ids`."""
    some = image_ids[: max(1, MEASURED_IMAGES // folds)]
    most = max(1, MEASURED_INSTANCES // (folds * max(1, len(some))))
    for image_id in some:
        image = labelled.dataset.image_by_id[image_id]
        truths = labelled.masks[image_id]
        rng = np.random.default_rng([seed, image_id & 0xFFFFFFFF, image_id >> 32 & 0xFFFFFFFF])
        chosen = [truths[index] for index in sorted(rng.permutation(len(truths))[:most].tolist())]
        masks = [decode_mask(truth) for truth in chosen]
        taught = [
            (label, truth, quality)
            for truth, mask in zip(chosen, masks, strict=True)
            for quality, noise in enumerate(noises)
            if (label := imitated_label(with_gross_errors(mask, masks, noise, rng), 0, noise, rng)) is not None
        ]
        if taught:
            labels, true, qualities = zip(*taught, strict=True)
            rows = ImageLabels.of_instances(image_id, image.file_name, image.width, image.height, labels)
            yield Exam(RefineInput(labelled.pixels(image_id), rows), true, qualities)


def examine(exams: Sequence[Exam], engine: Engine, settings: RefineSettings) -> Marks:
    """Refine the masks without a gate, and mark them."""
    qualities: list[int] = []
    teacher: list[float] = []
    refined: list[float] = []
    for exam in exams:
        rows = exam.given.labels
        (answer,) = refine_images([exam.given], engine, settings, Gate())
        qualities += exam.qualities
        teacher += [rle_iou(rows.rle(label), truth) for label, truth in zip(rows.instances, exam.truths, strict=True)]
        refined += [
            rle_iou(rows.rle(label), truth) for label, truth in zip(answer.labels.instances, exam.truths, strict=True)
        ]
    return Marks(tuple(qualities), tuple(teacher), tuple(refined))
