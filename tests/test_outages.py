"""Files that cannot be reached any more are failures of the machine: nothing of them is recorded as a result."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipeline.coco import image_folder
from pipeline.coco.image_folder import RETRY_SECONDS, ImageFolder
from pipeline.compute import worker_check
from pipeline.compute.execution import Execution, TooManyFailedError
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, ShardReport, run_shards
from pipeline.compute.worker_check import WorkerCheck, WorkPaths, program_digest
from pipeline.detection.training import of_loader
from pipeline.errors import ImageError, OutageError, StageError
from pipeline.files import images
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_shard
from pipeline.labels.rows import ImageLabels, Status
from pipeline.tables.shard_files import divide
from tests.shard_work import note, noted
from tests.test_compute import cluster_in_threads

NAMES = ["1.png", "a/2.png", "3.png"]


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "images"
    for name in NAMES[:2]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (9, 9, 9)).save(root / name)
    return root


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The waiting that was asked for, without waiting."""
    asked: list[float] = []
    monkeypatch.setattr(image_folder.time, "sleep", asked.append)
    return asked


def test_an_image_that_was_missing_from_the_start_cannot_be_used_and_is_not_waited_for(folder, waits):
    with pytest.raises(ImageError, match="no such file") as raised:
        ImageFolder.of(folder, NAMES).read("3.png")
    assert not isinstance(raised.value, OutageError)
    assert waits == []


def test_an_image_that_was_there_is_waited_for_and_then_the_work_fails(folder, waits):
    looked = ImageFolder.of(folder, NAMES)
    (folder / "1.png").unlink()
    with pytest.raises(OutageError, match=r"1\.png: no such file. It was there when this began.*give the same command"):
        looked.read("1.png")
    assert waits == list(RETRY_SECONDS)


def test_an_image_that_comes_back_is_read(folder, monkeypatch):
    looked = ImageFolder.of(folder, NAMES)
    away = folder.with_name("away")
    folder.rename(away)
    monkeypatch.setattr(image_folder.time, "sleep", lambda _: away.exists() and away.rename(folder))
    assert looked.read("a/2.png", (6, 4)).shape == (4, 6, 3)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTCONN, errno.EMFILE])
@pytest.mark.parametrize("name", NAMES)
def test_errors_of_the_system_are_outages_even_for_images_that_were_missing(folder, waits, monkeypatch, code, name):
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, "the disk says no")

    looked = ImageFolder.of(folder, NAMES)
    if name == "3.png":
        (folder / name).write_bytes(b"x")
    monkeypatch.setattr(images.Image, "open", fail)
    with pytest.raises(OutageError, match="cannot be read: the disk says no"):
        looked.read(name)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nand no more", b"text"])
def test_wrong_bytes_are_no_outage(folder, waits, content):
    (folder / "1.png").write_bytes(content)
    with pytest.raises(ImageError):
        ImageFolder.of(folder, NAMES).read("1.png")
    assert waits == []


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "loop.png"])
def test_names_that_no_file_can_have_are_no_outage(folder, waits, name):
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        ImageFolder.of(folder, [name]).read(name)


def test_a_folder_that_is_not_there_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(StageError, match="nowhere: no such folder of images: correct its path, or mount the disk"):
        ImageFolder.of(tmp_path / "nowhere", NAMES)


# ---- how many may fail --------------------------------------------------------------------------------

PLAN = divide(range(1, 31), 5)


@dataclass(frozen=True)
class FailingWork:
    """Rows of which those in `bad` fail; every image that is computed is noted."""

    shards_folder: Path
    bad: frozenset[int] = field(default_factory=frozenset)

    @property
    def paths(self) -> WorkPaths:
        return WorkPaths((), self.shards_folder)

    def compute(self, shard: Shard) -> list[ImageLabels]:
        note(self.shards_folder.parent / "computed", str(shard.index))
        return [
            self.given_up(image_id, "is bad")
            if image_id in self.bad
            else ImageLabels.of_instances(image_id, f"{image_id}.png", 1, 1, ())
            for image_id in shard.image_ids
        ]

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> ShardReport:
        write_label_shard(self.shards_folder, shard.index, rows)
        failures = {row.file_name: row.message for row in rows if row.status is Status.FAILED}
        return ShardReport(len(rows), {}, failures)

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        return ImageLabels.of_failure(image_id, f"{image_id}.png", reason, 1, 1)


def fill(folder: Path, bad: Sequence[int], share: float = 0.1) -> LabelStore:
    store = NewStore(folder / "labels.zarr", [], {})
    work = FailingWork(shards_beside(store.path), frozenset(bad))
    fill_label_store("count", work, PLAN, store, Execution(ComputeSettings(failed_share=share)))
    return LabelStore.open(store.path)


def test_a_few_bad_images_are_rows(tmp_path):
    assert fill(tmp_path, [3, 20, 21]).attributes.statuses["failed"] == 3


def test_too_many_bad_images_fail_the_stage_early_and_nothing_is_sealed(tmp_path):
    with pytest.raises(TooManyFailedError, match="4 of 30 images cannot be used so far.*compute.failed_share = 0.1"):
        fill(tmp_path, [3, 7, 8, 12])
    assert not (tmp_path / "labels.zarr").exists()
    assert noted(tmp_path / "computed") == ["0", "1", "2"]


def test_what_failed_is_made_again_when_the_cause_is_mended_and_the_rest_is_kept(tmp_path):
    with pytest.raises(TooManyFailedError):
        fill(tmp_path, [11, 12, 13, 14, 15])
    assert fill(tmp_path, []).attributes.statuses["failed"] == 0
    assert noted(tmp_path / "computed") == ["0", "1", "2", "2", "3", "4", "5"]


def test_failures_of_earlier_runs_count(tmp_path):
    with pytest.raises(TooManyFailedError):
        fill(tmp_path, [1, 2, 29, 30])
    with pytest.raises(TooManyFailedError, match="5 of 30"):
        fill(tmp_path, [1, 2, 28, 29, 30])


def test_a_result_with_many_failures_is_made_where_that_is_asked_for(tmp_path):
    assert fill(tmp_path, range(1, 31), share=1).attributes.statuses["failed"] == 30


# ---- workers ------------------------------------------------------------------------------------------


@pytest.fixture
def check(tmp_path) -> WorkerCheck:
    (tmp_path / "weights").write_bytes(b"12345")
    (tmp_path / "mark").touch()
    return WorkerCheck(((tmp_path / "weights", 5), (tmp_path, -1)), tmp_path / "mark", program_digest())


def test_a_worker_that_sees_what_the_run_sees_is_fit(check):
    assert check.problems() == []


def test_a_worker_says_everything_that_it_lacks(check, tmp_path):
    other = replace(
        check,
        sizes=((tmp_path / "weights", 6), (tmp_path / "nothing", -1)),
        mark=tmp_path / "elsewhere" / "mark",
        program="another",
    )
    assert other.problems() == [
        "another version of this program",
        f"{tmp_path / 'weights'} is another file",
        f"{tmp_path / 'nothing'} is missing",
        f"{tmp_path / 'elsewhere'} is not the same folder",
    ]
    with pytest.raises(
        OutageError, match=r"not every worker of the cluster can do this work:\n(.*\n)+.*another version"
    ):
        worker_check.require_checked(other)


@pytest.mark.slow
def test_a_cluster_with_a_worker_of_another_version_gets_no_work(tmp_path, monkeypatch):
    versions = iter(["this", *["another"] * 9])
    monkeypatch.setattr(worker_check, "program_digest", lambda: next(versions))
    with cluster_in_threads(1) as cluster:
        address = cluster.scheduler_address
        shards = [Shard(index, ids) for index, ids in enumerate(PLAN)]
        with pytest.raises(OutageError, match=r"tcp://.*: another version of this program"):
            run_shards(FailingWork(tmp_path / "shards"), shards, ComputeSettings(scheduler=address), lambda _: None)
    assert noted(tmp_path / "computed") == []
    assert list((tmp_path / "shards").iterdir()) == []  # nor a mark is left


def test_pixels_are_what_they_are_without_a_folder(folder):
    assert np.array_equal(ImageFolder(folder).read("1.png"), np.full((4, 6, 3), 9, np.uint8))


class Gone(Dataset):
    """A dataset whose images cannot be read any more."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: int) -> None:
        raise OutageError("a.png: OutageError: no such file\nIt was there when this began")


@pytest.mark.slow
def test_an_outage_in_a_loading_process_is_told_without_its_traceback():
    with pytest.raises(StageError) as raised:
        list(DataLoader(Gone(), num_workers=1))
    assert "Traceback" in str(raised.value)
    told = of_loader(raised.value)
    assert type(told) is OutageError
    assert str(told).endswith("no such file\nIt was there when this began")
    assert "Traceback" not in str(told)
    assert of_loader(told) is told
