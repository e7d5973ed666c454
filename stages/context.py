"""The input of a stage: the experiment, the folder to write, and the results that it may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compute.execution import Execution
from pipeline.datasets.lists import VALIDATION
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED
from pipeline.errors import StageError
from pipeline.sam.adapted import with_adapted
from pipeline.sam.settings import SamSettings
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import Node

Summary = Mapping[str, Any]
"""The figures of a stage, for its completion record."""

MAY_MEASURE = ("evaluate", "report")


def _nothing() -> None:
    """Note no time."""


@dataclass(frozen=True)
class StageContext:
    """One stage of one experiment.

    folder: where the stage writes its result; it holds what an interrupted run left.
    results: folders of the results that it reads, by node, without the split's: stages read its lists by the methods
        below, so that only stages that measure see the truth of unlabelled images.
    execution: where shards run, and the callbacks for progress and messages.
    ablation: the file of the figures of the experiment's ablation, if it has one.
    note_time: called now and then while the stage runs, so that its time counts even if it is killed.
    """

    experiment: Experiment
    node: Node
    fingerprint: Mapping[str, Any]
    folder: Path
    results: Mapping[str, Path]
    split_folder: Path | None
    execution: Execution
    ablation: Path | None = None
    note_time: Callable[[], None] = _nothing

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the provenance of stores in this result."""
        return {"fingerprint": self.fingerprint}

    @property
    def sam(self) -> SamSettings:
        """Return the SAM of this stage: with the weights that `adapt` chose, if the stage reads its result."""
        folder = self.results.get("adapt")
        return self.experiment.sam if folder is None else with_adapted(self.experiment.sam, folder)

    def say(self, text: str) -> None:
        """Print a message for the user."""
        self.execution.say(text)

    def labelled(self) -> Path:
        """Return the COCO file of the labelled images."""
        return self._split() / LABELLED

    def unlabelled(self) -> Path:
        """Return the COCO file of the unlabelled images, without annotations."""
        return self._split() / UNLABELLED

    def unlabelled_truth(self) -> Path | None:
        """Return the COCO file of the known truth of unlabelled images, if there is one; for measuring only."""
        if self.node.stage not in MAY_MEASURE:
            allowed = " and ".join(MAY_MEASURE)
            raise StageError(f"{self.node.stage} may not see the truth of unlabelled images: only {allowed} may")
        path = self._split() / TRUTH
        return path if path.is_file() else None

    def labelled_images(self) -> Path:
        """Return the folder that the file names of the labelled images start from."""
        return self.experiment.data.labelled_source.images

    def unlabelled_images(self) -> Path:
        """Return the folder that the file names of the unlabelled images start from."""
        return self.experiment.data.unlabelled_source.images

    def validation(self) -> tuple[Path, Path] | None:
        """Return COCO file and image folder of the validation images, if there are any."""
        path, validation = self._split() / VALIDATION, self.experiment.data.validation
        return (path, validation.images) if validation is not None and path.is_file() else None

    def _split(self) -> Path:
        if self.split_folder is None:
            raise StageError(f"{self.node.key} does not read the split")
        return self.split_folder
