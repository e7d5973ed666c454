"""Stores that are filled shard by shard: the progress they report, and work that is not repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.compute.execution import Execution, ShardProgress, run_missing
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.errors import StageError
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels
from pipeline.tables.shard_files import divide
from tests.shard_work import CountingWork, noted

PLAN = divide(range(1, 8), 3)  # shards of 3, 3 and 1 images


@dataclass(frozen=True)
class ReportingWork:
    """Work whose every shard reports its instances, and image 5 as failed; stops before shard `stops_at`."""

    shards_folder: Path
    stops_at: int = -1

    @property
    def counting(self) -> CountingWork:
        return CountingWork(self.shards_folder.parent)

    def compute(self, shard: Shard) -> list[ImageLabels]:
        if shard.index == self.stops_at:
            raise KeyboardInterrupt
        return self.counting.compute(shard)

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> ShardReport:
        self.counting.publish(shard, rows)
        failures = {"5.png": "cut off"} if 5 in shard.image_ids else {}
        return ShardReport(len(rows), {"sam": len(rows)}, failures)

    @property
    def paths(self) -> WorkPaths:
        return self.counting.paths

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        return self.counting.given_up(image_id, reason)


def fill(folder: Path, told: list[ShardProgress], stops_at: int = -1) -> Counter[str]:
    store = NewStore(folder / "labels.zarr", [], {"made by": "a test"})
    work = ReportingWork(shards_beside(store.path), stops_at)
    return fill_label_store("count", work, PLAN, store, Execution(ComputeSettings(), told.append))


def test_progress_is_told_as_work_begins_and_after_each_shard(tmp_path):
    told: list[ShardProgress] = []
    counts = fill(tmp_path, told)
    assert [(each.what, each.images, each.done, each.done_before) for each in told] == [
        ("count", 7, 0, 0),
        ("count", 7, 3, 0),
        ("count", 7, 6, 0),
        ("count", 7, 7, 0),
    ]
    assert told[0].report is None
    assert told[2].report == ShardReport(3, {"sam": 3}, {"5.png": "cut off"})
    assert counts == {"sam": 7, "failed": 1}
    assert LabelStore.open(tmp_path / "labels.zarr").attributes.provenance == {"made by": "a test"}
    assert not (tmp_path / "shards").exists()


def test_an_interrupted_store_goes_on_at_its_first_missing_shard(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, [], stops_at=1)
    assert noted(tmp_path / "published") == ["0"]
    told: list[ShardProgress] = []
    counts = fill(tmp_path, told)
    assert noted(tmp_path / "published") == ["0", "1", "2"]
    assert [(each.done, each.done_before) for each in told] == [(3, 3), (6, 3), (7, 3)]
    assert counts == {"sam": 4, "failed": 1}
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    fill(undisturbed, [])
    digests = {LabelStore.open(each / "labels.zarr").attributes.digest for each in (tmp_path, undisturbed)}
    assert len(digests) == 1


def test_a_store_that_exists_is_left_alone_and_its_shards_are_removed(tmp_path):
    fill(tmp_path, [])
    (tmp_path / "shards").mkdir()
    told: list[ShardProgress] = []
    assert fill(tmp_path, told) == {}
    assert (told, noted(tmp_path / "published")) == ([], ["0", "1", "2"])
    assert not (tmp_path / "shards").exists()


def test_work_that_is_complete_is_told_as_done(tmp_path):
    told: list[ShardProgress] = []
    work = ReportingWork(tmp_path / "shards")
    counts = run_missing("count", work, PLAN, frozenset({0, 1, 2}), Execution(ComputeSettings(), told.append))
    assert told == [ShardProgress("count", 7, 7, 7)]
    assert counts == {}


def test_a_full_gpu_is_told_with_the_setting_that_helps(tmp_path, monkeypatch):
    def full(self, shard):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full. More.")

    monkeypatch.setattr(ReportingWork, "compute", full)
    work = ReportingWork(tmp_path / "shards")
    remedy = r"give the same command with a smaller compute\.batch_images \(it is 8\)$"
    with pytest.raises(StageError, match=f"^count: the memory of the GPU is full .*: {remedy}"):
        run_missing("count", work, PLAN, frozenset(), Execution(ComputeSettings()))
