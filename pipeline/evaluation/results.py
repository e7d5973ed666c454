"""The file `evaluation.json`: figures of models and pseudo-labels, with everything that a report shows of them.

Shares and metrics are in 0..1. A metric that does not apply, such as of a class without truths, is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.files.writing import open_atomically
from pipeline.labels.rows import Decision
from pipeline.masks.windows import BoxXyxy

EVALUATION: Final = "evaluation.json"
FORMAT: Final = "s4m-evaluation"
FORMAT_VERSION: Final = 3


class Metrics(msgspec.Struct, frozen=True, gc=False):
    """COCO's figures: average precision over IoU 0.50:0.95, at 0.50, at 0.75, by size of the truth; recall.

    Sizes are COCO's: small is under 32 x 32 pixels, large over 96 x 96. `ar` is the average recall over IoU 0.50:0.95
    with at most `max_detections` detections per image.
    """

    ap: float | None
    ap_50: float | None
    ap_75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None


class CategoryResult(msgspec.Struct, frozen=True):
    """One class. truths: number of its truths in the measured images, crowds left out."""

    category_id: int
    name: str
    truths: int
    mask: Metrics
    box: Metrics
    boundary: Metrics | None


class CityscapesClass(msgspec.Struct, frozen=True):
    """One class by the instance AP of Cityscapes; null without truths of at least 100 pixels."""

    category_id: int
    name: str
    ap: float | None
    ap_50: float | None


class CityscapesResult(msgspec.Struct, frozen=True):
    """The instance AP of Cityscapes, of masks: over IoU 0.50:0.95 and at 0.50, as means over the classes."""

    ap: float | None
    ap_50: float | None
    classes: tuple[CityscapesClass, ...]


class Confusion(msgspec.Struct, frozen=True):
    """What a model found in place of each true instance, at one score.

    min_score: detections with a lower score do not count; the score with the best F1 at IoU 0.5 over all classes.
    counts: rows are the true classes by id, then nothing; columns are the found classes, then nothing. So the last
    column counts missed instances, the last row false finds.
    """

    min_score: float
    counts: tuple[tuple[int, ...], ...]


class ModelResult(msgspec.Struct, frozen=True):
    """One model on the validation images.

    node: the node that trained it, such as `train-student-2`.
    round: the round of a student; 1 for the teacher.
    iterations: of its training.
    failed_images: number of images that could not be read; their truths count as missed.
    detections: number of measured detections, at any score.
    mask, box, boundary: means over the classes; boxes are those of the label store; `boundary` is null if it was not
    measured.
    detections_file: COCO results list, relative to the folder of `evaluation.json`.
    cityscapes: the instance AP of Cityscapes; null if it was not measured.
    resampled_ap: the mask AP of images drawn at random with replacement, if the images are few; the same draws for
    all models.
    """

    node: str
    role: Literal["teacher", "student"]
    round: int
    images: int
    failed_images: int
    detections: int
    mask: Metrics
    box: Metrics
    boundary: Metrics | None
    categories: tuple[CategoryResult, ...]
    detections_file: str
    iterations: int
    confusion: Confusion
    resampled_ap: tuple[float, ...] = ()
    cityscapes: CityscapesResult | None = None


class MaskFigures(msgspec.Struct, frozen=True, gc=False):
    """Masks against their truths: mean IoUs, and the shares whose IoU reaches 0.75 and 0.9; null without masks."""

    count: int
    mean_iou: float | None
    mean_boundary_iou: float | None
    share_75: float | None
    share_90: float | None


class PrecisionRecall(msgspec.Struct, frozen=True, gc=False):
    """Labels matched with truths of the same class, the best score first, each truth at most once.

    min_iou: the least IoU of a match. precision: null without labels; recall: null without truths.
    """

    min_iou: float
    true_positives: int
    false_positives: int
    missed: int
    precision: float | None
    recall: float | None


class LabelQuality(msgspec.Struct, frozen=True):
    """One set of pseudo-labels, without those that the gate dropped.

    labels: number of labels.
    at: precision and recall at IoU 0.5, 0.75 and 0.9.
    paired: figures of all instances paired with a truth, dropped ones included: the same instances before and after
    refinement.
    iou_histogram: number of paired instances in 40 equal bins of IoU, 0 to 1.
    """

    labels: int
    at: tuple[PrecisionRecall, ...]
    paired: MaskFigures
    iou_histogram: tuple[int, ...]


class DecisionResult(msgspec.Struct, frozen=True):
    """The instances with the same decision of the gate.

    instances: their number. class_accuracy, before, after: of the paired ones, as in `PseudoLabelResult`.
    """

    decision: Decision
    instances: int
    class_accuracy: float | None
    before: MaskFigures
    after: MaskFigures


class InstanceChange(msgspec.Struct, frozen=True):
    """One instance before and after refinement.

    position: its index in the image, in the stores of `predict` and of `refine`.
    box_xyxy: box around the truth and both masks, in pixels of the full image.
    truth_id, truth_category_id: id and class of the annotation that it is measured against.
    score, mask_score: of class and mask; the second is null where it is not known.
    Boundary IoU is null if it was not measured.
    """

    image_id: int
    file_name: str
    position: int
    category_id: int
    truth_id: int
    truth_category_id: int
    score: float
    decision: Decision
    box_xyxy: BoxXyxy
    iou_before: float
    iou_after: float
    boundary_iou_before: float | None
    boundary_iou_after: float | None
    mask_score: float | None = None


class ClassCheckResult(msgspec.Struct, frozen=True, gc=False):
    """What similar labelled instances say of the classes of labels.

    checked: number of labels that they voted on. doubted: those of another class than the vote. paired, doubted_paired:
    those of them that are paired with a truth. accuracy: the share of paired labels that have the class of their truth,
    as they are, with the doubted ones corrected, and without the doubted ones; null without any.
    """

    checked: int
    doubted: int
    paired: int
    doubted_paired: int
    accuracy: float | None
    accuracy_corrected: float | None
    accuracy_without: float | None


class PseudoLabelResult(msgspec.Struct, frozen=True):
    """The pseudo-labels of one round, on images with a known truth.

    images: number of measured images; failed_images: number of images without usable labels, not in `images`.
    truths: number of truths in the measured images, crowds left out.
    paired: number of instances paired with a truth of any class; class_accuracy: the share of them that have its
    class, null without pairs.
    before: the labels of `predict`; after: those of `refine`.
    most_improved, most_harmed: paired instances by the change of their mask IoU, the largest first.
    class_check: null if no class was checked.
    """

    round: int
    predict_node: str
    refine_node: str
    images: int
    failed_images: int
    truths: int
    paired: int
    class_accuracy: float | None
    before: LabelQuality
    after: LabelQuality
    decisions: tuple[DecisionResult, ...]
    most_improved: tuple[InstanceChange, ...]
    most_harmed: tuple[InstanceChange, ...]
    class_check: ClassCheckResult | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """The content of `evaluation.json`.

    max_detections: number of detections per image that count.
    models: teacher first, then students by round; empty without validation images.
    pseudo_labels: by round; empty without annotations of the unlabelled images.
    notes: sentences that say what was not measured, and why.
    """

    format: str
    version: int
    max_detections: int
    categories: tuple[CocoCategory, ...]
    models: tuple[ModelResult, ...]
    pseudo_labels: tuple[PseudoLabelResult, ...]
    notes: tuple[str, ...]


class _EvaluationFormat(msgspec.Struct):
    format: str
    version: int


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation as indented JSON, whole or not at all."""
    with open_atomically(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n")


def read_evaluation(path: Path) -> Evaluation:
    """Read what `write_evaluation` wrote. Raise StoreError if it is missing, damaged or of another version."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}. Run evaluate again.") from error
    try:
        given = msgspec.json.decode(content, type=_EvaluationFormat)
        if (given.format, given.version) == (FORMAT, FORMAT_VERSION):
            return msgspec.json.decode(content, type=Evaluation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path}: this is not an evaluation, or it is damaged ({error}). Run evaluate again."
        ) from error
    raise StoreError(
        f"{path}: an evaluation of {given.format!r} {given.version}; this program reads {FORMAT!r} "
        f"{FORMAT_VERSION}. Run evaluate again."
    )
