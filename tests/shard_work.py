"""A stage's work for tests of `pipeline.compute.shards`: rows are labels that follow from the image's id alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.compute.shards import Shard
from pipeline.compute.worker_check import WorkPaths
from pipeline.errors import DatasetError, Problem
from pipeline.labels.label_writing import write_label_shard
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.windows import BoxXyxy

BOX_XYXY: BoxXyxy = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class CountingWork:
    """Every shard that is published is noted, in a file that only grows.

    killer: an image whose worker dies. wrong: one that raises. seconds: how long an image takes.
    """

    folder: Path
    killer: int = -1
    wrong: int = -1
    seconds: float = 0.0

    def compute(self, shard: Shard) -> list[ImageLabels]:
        return [self._row(image_id) for image_id in shard.image_ids]

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> int:
        write_label_shard(self.folder / "shards", shard.index, rows)
        note(self.folder / "published", str(shard.index))
        return len(rows)

    @property
    def paths(self) -> WorkPaths:
        return WorkPaths((), self.folder)

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        return ImageLabels.of_failure(image_id, f"{image_id}.png", reason, 1, 1)

    def _row(self, image_id: int) -> ImageLabels:
        if image_id == self.killer:
            note(self.folder / "killed", str(image_id))
            os.kill(os.getpid(), signal.SIGKILL)
        if image_id == self.wrong:
            raise DatasetError("images", [Problem(str(image_id), "is wrong")])
        time.sleep(self.seconds)
        instance = InstanceLabel(1, 0.5, BOX_XYXY, b"01", 1, Decision.SAM, agreement=(image_id % 7) / 7)
        return ImageLabels(image_id, f"{image_id}.png", 1, 1, Status.OK, "", (instance,))


def note(path: Path, line: str) -> None:
    """Append a line, whole even from several processes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
