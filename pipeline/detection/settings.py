"""What an experiment says of teacher, student and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.settings import Count, FilePath, Section, Seed, Share


class TrainSettings(Section):
    """What teacher and student have in common."""

    iterations: Count = 2000
    """Optimizer steps."""
    batch_size: Count = 8
    """Images a step, over all GPUs."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Null: what the detector config says."""
    crop_px: Annotated[int, Field(ge=32)] | None = None
    """Side of the random crops trained on. Null: what the detector config says."""
    seed: Seed = 0
    """Weights, order of the images, augmentation."""
    overrides: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies defaults
    """Anything else of the detector config, by dotted key."""


class TeacherSettings(TrainSettings):
    """The detector that is trained on the labelled images alone."""

    detector: FilePath = Path("configs/detectors/mask_rcnn_small.py")
    """MMDetection config of the detector."""
    init_weights: FilePath | None = None
    """Weights to start from. Null: as the detector config says."""
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the structural distillation loss; 0 leaves it and the `distill` stage out."""
    distillation_anchors: Annotated[int, Field(ge=1, le=4096)] = 128
    """Anchors drawn anew for each image at each step."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images that the teacher never sees, for a calibrated gate to be fitted on."""


class PredictSettings(Section):
    """The teacher's labels on the unlabelled images."""

    score_threshold: Share = 0.7
    """Predictions with a lower class score are left out."""
    max_instances: Annotated[int, Field(ge=1, le=1000)] = 100
    """At most this many instances an image, the best by score."""
    flip_test: bool = False
    """Predict on the mirrored image too and merge."""
    results: FilePath | None = None
    """Labels from elsewhere: any detector's COCO results file takes the place of the teacher's."""


class Mixture(Section):
    """What a student's batch is made of, as relative amounts."""

    labelled: Annotated[float, Field(ge=0)] = 1.0
    """Labelled images."""
    pseudo: Annotated[float, Field(ge=0)] = 1.0
    """Unlabelled images with refined labels."""
    composites: Annotated[float, Field(ge=0)] = 1.0
    """Composites of the augment stage."""


class StudentSettings(TrainSettings):
    """The detector that is trained on labelled and refined pseudo-labelled images."""

    detector: FilePath | None = None
    """MMDetection config of the detector. Null: the teacher's."""
    start: Literal["teacher", "scratch"] = "teacher"
    """Start from the teacher's weights, or as the teacher started."""
    mixture: Mixture = Mixture()
    """What a batch is made of."""
    pseudo_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the losses on pseudo-labelled images and composites."""
    instance_weight: Literal["none", "score", "gate"] = "none"
    """Weigh each pseudo instance by its class score or by the gate's confidence."""
    ignore_dropped: bool = True
    """Pixels of dropped instances neither reward nor punish."""
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0004
    """Share of the new weights in the moving average that is published; 0: no average."""
    jitter: Share = 0.8
    """Probability of colour jitter on pseudo-labelled images."""
    grey: Share = 0.2
    """Probability of greyscale on pseudo-labelled images."""
    blur: Share = 0.5
    """Probability of blur on pseudo-labelled images."""
    rounds: Annotated[int, Field(ge=0, le=9)] = 1
    """In every further round the student is the teacher of the next; 0: the teacher alone, no student."""
