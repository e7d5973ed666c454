"""The schema of an experiment file: every key, its type, its range, its default and what it is for.

`RefineOnly` is the part of it that the refinement of a COCO file needs.

Three kinds of keys never change a result and so never enter a fingerprint: `name`, `store` and all of
`compute`. Paths never do either: what counts is the content they lead to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from pipeline.augment.settings import AugmentSettings
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.settings import DataSettings
from pipeline.detection.settings import PredictSettings, StudentSettings, TeacherSettings
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.presentation.settings import ReportSettings
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.settings import SamSettings
from pipeline.settings import AnyPath, Section
from pipeline.structure.settings import DistillSettings

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


class RefineOnly(Section):
    """The settings of a refinement without an experiment: of a COCO file whose images the command names."""

    sam: SamSettings = SamSettings()
    refine: RefineSettings = RefineSettings()
    compute: ComputeSettings = ComputeSettings()
