"""The schema of an experiment file: every key, its type, its range, its default and what it is for.

Three kinds of keys never change a result and so never enter a fingerprint: `name`, `store` and all of
`compute`. Paths never do either: what counts is the content they lead to.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class FileMarker:
    """The path must lead to a file."""


class FolderMarker:
    """The path must lead to a folder."""


def expanded(path: Path) -> Path:
    """A path with `~` and environment variables filled in; a PydanticCustomError where that cannot be."""
    text = os.path.expandvars(str(path))
    unknown = re.search(r"\$(\w+|\{\w+\})", text)
    if unknown:
        raise PydanticCustomError(
            "path", "names the environment variable {name}, which is not set", {"name": unknown[0]}
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise PydanticCustomError("path", "names a user who has no home folder here") from None


AnyPath = Annotated[Path, AfterValidator(expanded)]
FilePath = Annotated[AnyPath, FileMarker()]
FolderPath = Annotated[AnyPath, FolderMarker()]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the experiment: unknown keys are refused, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class AnnotatedSet(Section):
    """Images and their COCO annotations."""

    annotations: FilePath
    """COCO instance annotations (JSON)."""
    images: FolderPath
    """The folder that the annotations' file names start from."""


class UnlabelledSet(Section):
    """Images without labels to learn from."""

    images: FolderPath
    """The folder of images; without `annotations`, every image below it is taken."""
    annotations: FilePath | None = None
    """COCO JSON that lists the images. Instances in it are kept aside, for measuring only."""


class DataSettings(Section):
    """Either `labelled` and `unlabelled`, or one `annotated` set split by `percent` or `labelled_list`."""

    labelled: AnnotatedSet | None = None
    """The labelled images."""
    unlabelled: UnlabelledSet | None = None
    """The unlabelled images."""
    annotated: AnnotatedSet | None = None
    """One annotated set, of which a part plays the labelled images and the rest the unlabelled ones."""
    percent: Annotated[float, Field(gt=0, lt=100)] | None = None
    """How much of `annotated` is labelled, in percent of its images."""
    seed: Seed = 0
    """Which images `percent` picks."""
    labelled_list: FilePath | None = None
    """A published list of the labelled images of `annotated`: ids or file names, text or JSON."""
    validation: AnnotatedSet | None = None
    """The images on which teacher and student are measured."""


class SamSettings(Section):
    """The Segment Anything Model."""

    model: Literal["sam_tiny", "vit_b", "vit_l", "vit_h"] = "sam_tiny"
    """`sam_tiny` is shipped with the project, the others are fetched by `s4m weights get`."""
    checkpoint: FilePath | None = None
    """Weights other than the model's own."""
    input_side: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] | None = None
    """Side, in pixels, that `sam_tiny` scales images to. Null: 256; the other models have a fixed one."""


class DistillSettings(Section):
    """Structural targets: what SAM's decoder says of each labelled image, for the teacher to learn from."""

    anchors: Annotated[int, Field(ge=2, le=4096)] = 128
    """Anchor points an image; each gives one similarity map."""
    inside_share: Share = 0.5
    """Share of the anchors that lies inside instances; the rest lies anywhere."""
    seed: Seed = 0
    """Where the anchors fall."""


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
    overrides: dict[str, Any] = {}
    """Anything else of the detector config, by dotted key."""


class TeacherSettings(TrainSettings):
    """The detector that is trained on the labelled images alone."""

    detector: FilePath = Path("configs/detectors/mask_rcnn_small.py")
    """MMDetection config of the detector."""
    init_weights: FilePath | None = None
    """Weights to start from. Null: as the detector config says."""
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the structural distillation loss; 0 leaves it and the `distill` stage out."""
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


class RefineSettings(Section):
    """How SAM sharpens the teacher's masks. `preset` fills every key that is not given."""

    preset: Literal["best", "s4m", "samrefiner"] = "best"
    """`s4m`: the paper's recipe. `samrefiner`: all prompts at once. `best`: chosen by measurement."""
    points: Annotated[int, Field(ge=0, le=64)] = 3
    """Positive points sampled inside the mask in proportion to its probability."""
    center_point: bool = False
    """A positive point where the mask is widest."""
    background_point: bool = False
    """A negative point where the background inside the box is widest."""
    box: Literal["none", "tight", "elastic"] = "none"
    """Box prompt: the mask's own, or one that grows where the teacher is unsure."""
    box_margin: Share = 0.1
    """How far an elastic box may grow, as a share of its sides."""
    mask_prompt: bool = False
    """Give the teacher's soft mask to SAM as well."""
    passes: Annotated[int, Field(ge=1, le=8)] = 1
    """Decoder passes; each later one also sees the mask of the one before."""
    choice: Literal["predicted_iou", "agreement", "product"] = "predicted_iou"
    """Which of SAM's candidates wins: by its own estimate, by agreement with the teacher, by both."""
    largest_component: bool = False
    """Keep only the largest connected part of a mask."""
    fill_holes: bool = False
    """Fill the holes of a mask."""
    separate: bool = False
    """Give pixels claimed by several instances to the one with the highest score."""
    gate: Literal["none", "fixed", "calibrated", "teacher"] = "none"
    """Between SAM's mask and the teacher's: always SAM's, by the thresholds below, by fitted ones, or without SAM."""
    min_agreement: Share = 0.5
    """Gate: lowest IoU between SAM's mask and the teacher's."""
    min_predicted_iou: Share = 0.0
    """Gate: lowest IoU that SAM itself expects."""
    min_stability: Share = 0.0
    """Gate: lowest stability of SAM's mask under a shift of its threshold."""
    max_area_change: Annotated[float, Field(ge=1)] = 4.0
    """Gate: largest factor by which SAM may grow or shrink the mask."""
    drop_below_agreement: Share = 0.0
    """Gate: below this agreement neither mask is believed and the instance is dropped."""
    zoom_below_px: Annotated[int, Field(ge=0)] = 0
    """Instances with shorter sides, in SAM's pixels, are refined in an enlarged crop instead; 0: none."""
    seed: Seed = 0
    """Where sampled points fall."""


class AugmentSettings(Section):
    """ARP: composites of two unlabelled images with their refined labels."""

    mode: Literal["materialised", "on-the-fly", "none"] = "materialised"
    """Write composites once, make them while training, or do without."""
    copies: Count = 1
    """Composites for each unlabelled image."""
    placement: Literal["in-place", "moved"] = "in-place"
    """Paste an instance where it was, or rescaled and elsewhere."""
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.8, 1.2)
    """Range of the rescaling of moved instances."""
    partners: Literal["unlabelled", "labelled-too"] = "unlabelled"
    """Which images an image may be paired with."""
    decisions: tuple[Literal["sam", "teacher"], ...] = ("sam",)
    """Instances are pasted only if the gate decided so."""
    min_score: Share = 0.0
    """Instances with a lower class score are not pasted."""
    min_area_px: Annotated[float, Field(ge=0)] = 16.0
    """Smaller instances are not pasted."""
    min_area_share: Share = 0.0
    """Instances with a smaller share of their image are not pasted."""
    min_visible_share: Share = 0.1
    """What is covered to less than this share is dropped."""
    edge_blend_px: Annotated[float, Field(ge=0)] = 0.0
    """Width of the soft edge of pasted instances; 0: hard."""
    seed: Seed = 0
    """Pairs, places and sizes."""


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


class EvaluateSettings(Section):
    """How teacher, student and pseudo-labels are measured."""

    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
    """Detections an image that count."""
    boundary: bool = True
    """Measure boundary AP and boundary IoU as well."""


class ReportSettings(Section):
    """The HTML report."""

    gallery: Annotated[int, Field(ge=0, le=200)] = 24
    """Pictures in each gallery."""


class ComputeSettings(Section):
    """Machines and progress. Nothing here changes a result beyond rounding, or causes a rerun."""

    workers: Count = 1
    """Processes for sharded stages, of one core or GPU each; 1 computes in the command itself."""
    scheduler: str | None = None
    """Address of a running Dask scheduler to use instead."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of models; `auto` is bf16 where the device is faster in it."""
    compile: bool = False
    """Compile SAM's encoder (torch.compile): the first batches wait for minutes, the others are faster."""
    gpus: Count = 1
    """GPUs for training."""
    batch_images: Count = 8
    """Images that go through a model at once outside of training."""
    cache_embeddings: bool = False
    """Keep SAM's image embeddings in the store, so that refining again with other prompts is fast."""
    loader_workers: Annotated[int, Field(ge=0)] = 1
    """Processes that load images for training."""
    checkpoint_every: Count = 500
    """Training iterations between checkpoints."""
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    """Where training curves go, besides the JSON log."""


WITHOUT_EFFECT: Final = frozenset({"name", "store", "compute"})
"""Keys of an experiment that cannot change a result."""


class Experiment(Section):
    """One experiment, whole."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Names the working folder. Default: the file's name."""
    data: DataSettings
    sam: SamSettings = SamSettings()
    distill: DistillSettings = DistillSettings()
    teacher: TeacherSettings = TeacherSettings()
    predict: PredictSettings = PredictSettings()
    refine: RefineSettings = RefineSettings()
    augment: AugmentSettings = AugmentSettings()
    student: StudentSettings = StudentSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
    compute: ComputeSettings = ComputeSettings()
    store: AnyPath = Path("stores")
    """Root of the results that experiments share. The environment variable S4M_STORE goes before it."""
