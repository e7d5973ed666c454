"""What a stage is given: the experiment, where to write, and the results it may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compute.execution import Execution
from pipeline.datasets.lists import VALIDATION
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED
from pipeline.errors import StageError
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import Node

Summary = Mapping[str, Any]
"""A stage's own figures, for its completion record."""

MAY_MEASURE = ("evaluate", "report")


@dataclass(frozen=True)
class StageContext:
    """One stage of one experiment.

    folder: where the stage writes its result; what an interrupted run left lies there.
    results: folders of the results it reads, by node. The split's is not among them: stages see its lists
    by the methods below, so that only those that measure ever see the unlabelled images' truth.
    execution: where shards run, and who hears of progress.
    ablation: the figures of the experiment's ablation, if it has one.
    """

    experiment: Experiment
    node: Node
    fingerprint: Mapping[str, Any]
    folder: Path
    results: Mapping[str, Path]
    split_folder: Path | None
    execution: Execution
    ablation: Path | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the stores of this result, for their attributes."""
        return {"fingerprint": self.fingerprint}

    def say(self, text: str) -> None:
        """Say something to the user."""
        self.execution.say(text)

    def labelled(self) -> Path:
        """COCO file of the labelled images."""
        return self._split() / LABELLED

    def unlabelled(self) -> Path:
        """COCO file of the unlabelled images: no annotations in it."""
        return self._split() / UNLABELLED

    def unlabelled_truth(self) -> Path | None:
        """COCO file of what is known of the unlabelled images, if anything; for measuring only."""
        if self.node.stage not in MAY_MEASURE:
            allowed = " and ".join(MAY_MEASURE)
            raise StageError(f"{self.node.stage} may not see the truth of unlabelled images: only {allowed} may")
        path = self._split() / TRUTH
        return path if path.is_file() else None

    def labelled_images(self) -> Path:
        """The folder that the file names of the labelled images start from."""
        return self.experiment.data.labelled_source.images

    def unlabelled_images(self) -> Path:
        """The folder that the file names of the unlabelled images start from."""
        return self.experiment.data.unlabelled_source.images

    def validation(self) -> tuple[Path, Path] | None:
        """COCO file and image folder of the validation images, if there are any."""
        path, validation = self._split() / VALIDATION, self.experiment.data.validation
        return (path, validation.images) if validation is not None and path.is_file() else None

    def _split(self) -> Path:
        if self.split_folder is None:
            raise StageError(f"{self.node.key} does not read the split")
        return self.split_folder
