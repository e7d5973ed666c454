"""The schema of an experiment file: every key with its type, range, default and meaning.

`RefineOnly` is the part that the refinement of a COCO file needs. The keys `name`, `store` and all of `compute` never
change a result and never enter a fingerprint. Paths do not either: the content of their files does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, PrivateAttr, model_validator

from pipeline.adaptation.settings import AdaptSettings
from pipeline.augment.settings import AugmentSettings
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.settings import DataSettings
from pipeline.detection.settings import PredictSettings, StudentSettings, TeacherSettings
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.presentation.settings import ReportSettings
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.settings import SamSettings
from pipeline.settings import AnyPath, Settings
from pipeline.structure.settings import DistillSettings

WITHOUT_EFFECT: Final = frozenset({"name", "store", "compute"})
"""Keys of an experiment that cannot change a result."""


@dataclass(frozen=True)
class ExperimentFile:
    """The file that an experiment was read from; None if it was made in Python. It is no part of its value."""

    path: Path | None = field(default=None, compare=False)


NAME_LENGTH: Final = 64
"""Number of characters that an experiment's name may have."""


class Experiment(Settings):
    """An experiment of the S4M pipeline."""

    name: Annotated[str, Field(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}$")]
    """Name of the experiment, and of its folder of records. Default: the file's name."""
    data: DataSettings
    """The images: either `labelled` and `unlabelled`, or one `annotated` set of which a part is labelled."""
    sam: SamSettings = SamSettings()
    adapt: AdaptSettings = AdaptSettings()
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
    """Folder of the results that experiments share. The environment variable S4M_STORE overrides it."""

    _file: ExperimentFile = PrivateAttr(default=ExperimentFile())

    @property
    def source(self) -> Path | None:
        """Return the file that the experiment was read from; None if it was made in Python."""
        return self._file.path

    @property
    def held_out_for_gate(self) -> float:
        """Return the share of the labelled images on which the gate is fitted, and no model; 0 for other gates."""
        return self.teacher.held_out if self.refine.gate == "calibrated" else 0.0

    @model_validator(mode="after")
    def _gate_can_be_calibrated(self) -> Self:
        if self.refine.gate == "calibrated":
            if self.predict.results is not None:
                message = "calibrated needs a teacher of this experiment, but predict.results is given"
                raise self.misfit(message, "refine", "gate")
            if self.teacher.held_out == 0:
                message = "calibrated needs labelled images to be fitted on; set teacher.held_out, say 0.2"
                raise self.misfit(message, "refine", "gate")
        return self

    @model_validator(mode="after")
    def _classes_can_be_checked(self) -> Self:
        if self.student.class_check != "off" and self.predict.results is not None:
            message = "needs a teacher of this experiment, whose features it compares, but predict.results is given"
            raise self.misfit(message, "student", "class_check")
        return self


class RefineOnly(Settings):
    """The settings of the refinement of a COCO file, without an experiment."""

    sam: SamSettings = SamSettings()
    refine: RefineSettings = RefineSettings()
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="after")
    def _gate_needs_no_teacher(self) -> Self:
        if self.refine.gate == "calibrated":
            message = "calibrated needs an experiment with a teacher; use none or fixed"
            raise self.misfit(message, "refine", "gate")
        if self.refine.gate == "teacher":
            message = "teacher keeps every mask as it is, and SAM has nothing to do; use none or fixed"
            raise self.misfit(message, "refine", "gate")
        return self


class AnnotateOnly(RefineOnly):
    """The settings of annotating images with a trained detector, with or without a refinement of its masks."""

    predict: PredictSettings = PredictSettings()

    @model_validator(mode="after")
    def _labels_are_the_detectors(self) -> Self:
        if self.predict.results is not None:
            raise self.misfit("the trained detector labels the images; leave this out", "predict", "results")
        if self.predict.threshold == "per-class":
            message = "per-class needs the labelled images of an experiment; use fixed"
            raise self.misfit(message, "predict", "threshold")
        return self


class AdaptOnly(Settings):
    """The settings of fitting SAM to labels without an experiment. `refine` has the prompts that it will be asked."""

    sam: SamSettings = SamSettings()
    adapt: AdaptSettings = AdaptSettings()
    refine: RefineSettings = RefineSettings()
    compute: ComputeSettings = ComputeSettings()
