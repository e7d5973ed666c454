"""The samples that the gate is fitted on: refined instances of labelled images, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.coco.model import CocoDataset
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.matching import match_to_truth
from pipeline.masks.overlap import area_match, rle_ious
from pipeline.masks.run_lengths import CompressedRle
from pipeline.refinement.calibrate import GateSample

MATCH_IOU = 0.3
"""A teacher's mask shows the truth that it overlaps most from here on: poor masks are what a gate is for."""


def samples_of_stores(teacher: LabelStore, refined: LabelStore, truth: CocoDataset) -> list[GateSample]:
    """Return the samples of the images of two stores: a teacher's labels, and the same refined without a gate."""
    samples = []
    for before, after in zip(teacher, refined, strict=True):
        if after.status is Status.OK:
            truths = [truth.rle(each) for each in truth.instances(before.image_id)]
            samples += gate_samples(before, after.instances, truths)
    return samples


def gate_samples(
    labels: ImageLabels, refined: Sequence[InstanceLabel], truths: Sequence[CompressedRle]
) -> list[GateSample]:
    """Return the samples of one image: of each teacher's instance that shows one of the truths and has a mask of SAM's.

    refined: the same instances refined with `refine.gate` none, so that every mask of SAM's is seen.
    """
    teacher_rles = [labels.rle(instance) for instance in labels.instances]
    samples = []
    matches = match_to_truth(teacher_rles, truths, MATCH_IOU)
    for teacher, teacher_rle, label, match in zip(labels.instances, teacher_rles, refined, matches, strict=True):
        if match is None or label.decision is not Decision.SAM:
            continue
        assert label.agreement is not None
        assert label.predicted_iou is not None
        assert label.stability is not None
        ious = rle_ious([teacher_rle, labels.rle(label)], [truths[match]])[:, 0]
        samples.append(
            GateSample(
                agreement=label.agreement,
                predicted_iou=label.predicted_iou,
                stability=label.stability,
                area_match=area_match(label.area, teacher.area),
                teacher_iou=float(ious[0]),
                sam_iou=float(ious[1]),
            )
        )
    return samples
