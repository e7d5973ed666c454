"""Settings of teacher, student and the teacher's labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.settings import MISFIT, ClassCheckAction, ConfigPath, Count, FilePath, Seed, Settings, Share

if TYPE_CHECKING:
    from pipeline.labels.class_check import ClassCheck

BatchSize = Annotated[int, Field(ge=0)]
InstanceWeight = Literal["none", "class", "mask", "product", "gate"]
"""`gate` is its confidence; the others but `none` are scores (see `pipeline.settings.ScoreKind`)."""
_OLD_WEIGHTS: Final = {"score": "class", "mask_score": "mask"}


class TrainSettings(Settings):
    """Training settings that teacher and student have in common."""

    iterations: Count = 2000
    """Number of optimizer steps."""
    batch_size: Count = 8
    """Number of images in one optimizer step, over all GPUs together."""
    learning_rate: Annotated[float, Field(gt=0, le=100)] | None = None
    """Learning rate of the optimizer. Null: the one of the detector config."""
    crop_px: Annotated[int, Field(ge=32)] | None = None
    """Side, in pixels, of the random square crops that are trained on. Null: the one of the detector config."""
    repeat_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Draw a labelled image max(1, sqrt(threshold / share of images with its rarest class)) times a pass. 0: once."""
    labelled_distortion: Share = 0.0
    """Probability that a labelled image gets other brightness, contrast, saturation and hue at random, as for SSD."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the images and their random changes."""
    overrides: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies defaults
    """Values of the detector config to replace, by dotted key."""


class TeacherSettings(TrainSettings):
    """The teacher: the detector that is trained on the labelled images alone."""

    detector: ConfigPath = Path("configs/detectors/mask_rcnn_small.py")
    """MMDetection config of the teacher. It is a program, and is executed: read one from elsewhere first."""
    init_weights: FilePath | None = None
    """File of weights that the training starts from. Null: as the detector config says."""
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the structural distillation loss. 0: no such loss, and the stage `distill` is skipped."""
    distillation_anchors: Annotated[int, Field(ge=1, le=4096)] = 128
    """Number of anchor points that each step draws anew from those stored for an image."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images that the teacher does not train on. A calibrated gate is fitted on them."""


class PredictSettings(Settings):
    """The teacher's labels on the unlabelled images."""

    score_threshold: Share = 0.7
    """Leave out predicted instances whose class score, the probability of their class alone, is below this."""
    threshold: Literal["fixed", "per-class"] = "fixed"
    """Use `score_threshold` for all classes, or choose one for each, so that images have as many as labelled ones."""
    lowest_threshold: Share = 0.3
    """With `threshold: per-class`: choose no threshold below this."""
    highest_threshold: Share = 0.95
    """With `threshold: per-class`: choose no threshold above this."""
    mask_threshold: Share = 0.0
    """Leave out predicted instances whose mask score, the mean probability inside their mask, is below this."""
    max_instances: Annotated[int, Field(ge=1, le=1000)] = 100
    """Keep at most this many instances in an image, those with the highest class scores."""
    flip_test: bool = False
    """Predict on the mirrored image as well, and merge both predictions."""
    results: FilePath | None = None
    """COCO results file of any detector, whose labels are used instead of the teacher's. Null: the teacher predicts."""

    @property
    def least_score(self) -> float:
        """Return the lowest class score that an instance may have, whatever its class."""
        return self.lowest_threshold if self.threshold == "per-class" else self.score_threshold

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.lowest_threshold > self.highest_threshold:
            message = f"is {self.lowest_threshold:g}, above highest_threshold ({self.highest_threshold:g})"
            raise self.misfit(f"{message}; change one of them", "lowest_threshold")
        return self


class MixtureSettings(Settings):
    """Kinds of images among the unlabelled images of a student's step, in relative amounts."""

    pseudo: Annotated[float, Field(ge=0)] = 1.0
    """Amount of images with refined labels."""
    composites: Annotated[float, Field(ge=0)] = 1.0
    """Amount of composites (see `augment`)."""

    @model_validator(mode="after")
    def _of_some_kind(self) -> Self:
        if self.pseudo + self.composites == 0:
            raise self.misfit("both amounts are 0; to train without them set student.unlabelled_batch_size to 0")
        return self


class StudentSettings(TrainSettings):
    """The student: the detector that is trained on labelled and on pseudo-labelled images."""

    detector: ConfigPath | None = None
    """MMDetection config of the student, a program too. Null: the teacher's, with the teacher's `overrides`."""
    start: Literal["teacher", "scratch"] = "teacher"
    """Start from the weights of the trained teacher, or from those that the teacher's training started from."""
    batch_size: BatchSize = 4
    """Number of labelled images in one optimizer step, over all GPUs together; unlabelled ones are in addition."""
    unlabelled_batch_size: BatchSize | None = None
    """Number of unlabelled images and composites in one optimizer step, over all GPUs together. Null: `batch_size`."""
    mixture: MixtureSettings = MixtureSettings()
    """Kinds of images among the unlabelled ones, in relative amounts: 3, 1 is three quarters of the first kind."""
    pseudo_weight: Annotated[float, Field(ge=0)] = 2.0
    """Factor for the losses on pseudo-labelled images and composites."""
    instance_weight: InstanceWeight = "none"
    """Multiply the losses of a pseudo-labelled instance by 1, its class score, mask score, both, or gate confidence."""
    ignore_dropped: bool = True
    """Leave the pixels of instances that the gate dropped out of the loss, instead of treating them as background."""
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0004
    """Share of the new weights in each update of the moving average that becomes the result. 0: no average is kept."""
    jitter: Share = 0.8
    """Probability that the colours of a pseudo-labelled image or composite are changed at random."""
    grey: Share = 0.2
    """Probability that a pseudo-labelled image or composite is turned grey."""
    blur: Share = 0.5
    """Probability that a pseudo-labelled image or composite is blurred."""
    uncertain_pixel_weight: Share = 1.0
    """Factor for the mask loss on pixels about which teacher, mirrored teacher and SAM disagree. 1: none are noted."""
    class_check: ClassCheckAction = "off"
    """Doubt labels whose class similar labelled instances do not have: just flag, weigh less, correct or drop them."""
    class_neighbours: Count = 10
    """With a `class_check`: number of labelled instances of each class that vote on the class of a label."""
    class_agreement: Share = 0.7
    """With a `class_check`: doubt a label if at least this share of the votes is for one other class."""
    finetune_iterations: Annotated[int, Field(ge=0)] = 0
    """Number of optimizer steps after `iterations` in which all images are labelled ones. 0: none."""
    finetune_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the learning rate that these last steps begin with; it falls to a hundredth of that."""
    rounds: Annotated[int, Field(ge=0, le=9)] = 1
    """Number of students, each trained on the labels of the one before, the first on the teacher's. 0: no student."""

    @field_validator("instance_weight", mode="before")
    @classmethod
    def _refuse_old_name(cls, given: Any) -> Any:
        if isinstance(given, str) and given in _OLD_WEIGHTS:
            names = {"given": given, "new": _OLD_WEIGHTS[given]}
            raise PydanticCustomError(MISFIT, 'given "{given}"; it is called {new} now', names)
        return given

    @property
    def doubt(self) -> ClassCheck:
        """Return which labels are doubted for their class, and what is done to them."""
        from pipeline.labels.class_check import ClassCheck  # the schema is read without pycocotools

        return ClassCheck(self.class_check, self.class_agreement)

    @property
    def notes_uncertain(self) -> bool:
        """Return whether labels need the pixels about which their masks disagree."""
        return self.uncertain_pixel_weight < 1

    @property
    def unlabelled_images(self) -> int:
        """Return the number of unlabelled images and composites in a step."""
        return self.batch_size if self.unlabelled_batch_size is None else self.unlabelled_batch_size

    @property
    def composites(self) -> float:
        """Return the amount of composites among the images of a step; 0 where it has no unlabelled images."""
        return self.mixture.composites if self.unlabelled_images else 0.0

    @model_validator(mode="after")
    def _of_some_images(self) -> Self:
        if self.batch_size + self.unlabelled_images == 0:
            raise self.misfit("there are no images in a step; raise batch_size or unlabelled_batch_size", "batch_size")
        if self.finetune_iterations and not self.batch_size:
            message = "needs labelled images in every step, and batch_size is 0; raise it"
            raise self.misfit(message, "finetune_iterations")
        return self
