"""A training on a GPU gets the loading processes that its samples ask for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from pipeline.compute import devices
from pipeline.compute.devices import require_gpus
from pipeline.compute.settings import ComputeSettings
from pipeline.detection import loader_workers
from pipeline.detection.loader_workers import GPU_SECONDS, choose_loaders, loaders_for, sample_seconds
from pipeline.errors import StageError


@pytest.mark.parametrize(
    ("seconds", "cores", "trainings", "expected"),
    [
        (0.0, 16, 1, 1),
        (GPU_SECONDS / 3, 16, 1, 1),
        (GPU_SECONDS * 3.5, 16, 1, 4),  # samples of Cityscapes
        (GPU_SECONDS * 3.5, 4, 1, 3),  # one core trains
        (GPU_SECONDS * 3.5, 16, 8, 1),
        (GPU_SECONDS * 3.5, 32, 8, 3),
        (GPU_SECONDS * 3.5, 1, 1, 1),
        (GPU_SECONDS * 3.5, 2, 8, 1),
    ],
)
def test_a_gpu_gets_the_processes_that_keep_it_busy_as_far_as_there_are_cores(seconds, cores, trainings, expected):
    assert loaders_for(seconds, cores, trainings) == expected


class Samples(Dataset):
    """Samples of nothing."""

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"index": index}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("came", "expected"),
    [
        ([10.2, 10.22, 10.28, 10.3, 10.36], 0.04),  # the first one opens files
        ([10.0], 0),
        ([10.0, 10.5, 11.1, 99.0], 0.55),  # a second is enough
    ],
    ids=["in turn", "one", "slow"],
)
def test_the_time_of_a_sample_is_that_of_the_kinds_in_a_step(monkeypatch, came, expected):
    clock = iter(came)
    monkeypatch.setattr(loader_workers, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(loader_workers, "_MEASURING_SECONDS", 1.0)
    assert sample_seconds(Samples(), range(len(came))) == pytest.approx(expected)


@pytest.fixture
def runner(monkeypatch):
    """A runner with a config of a loader, and what was measured."""
    made = SimpleNamespace(_train_dataloader={"num_workers": 1, "dataset": {"type": "set"}, "sampler": {}}, asked=[])

    def measure(dataset, samples) -> float:
        made.asked.append((dataset, samples))
        return 2.5 * GPU_SECONDS

    monkeypatch.setattr(loader_workers.DATASETS, "build", lambda config: f"built {config['type']}")
    monkeypatch.setattr(loader_workers.DATA_SAMPLERS, "build", lambda config, default_args: iter(range(100)))
    monkeypatch.setattr(loader_workers, "sample_seconds", measure)
    monkeypatch.setattr(loader_workers.os, "sched_getaffinity", lambda process: set(range(16)))
    return made


def test_a_training_on_a_gpu_measures_its_samples(runner):
    choose_loaders(runner, ComputeSettings(gpus=2), on_gpu=True)
    assert runner.asked == [("built set", list(range(8)))]
    assert runner._train_dataloader["num_workers"] == 3
    assert runner._train_dataloader["persistent_workers"] is True
    assert runner._train_dataloader["dataset"] == "built set"  # not built again


@pytest.mark.parametrize(("compute", "on_gpu"), [(ComputeSettings(loader_workers=5), True), (ComputeSettings(), False)])
def test_a_number_that_is_given_and_a_cpu_are_not_measured(runner, compute, on_gpu):
    before = dict(runner._train_dataloader)
    choose_loaders(runner, compute, on_gpu=on_gpu)
    assert runner.asked == []
    assert runner._train_dataloader == before


def test_more_gpus_than_there_are_is_told(monkeypatch):
    require_gpus(8)  # a machine without any trains on its CPU
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_gpus(2)
    with pytest.raises(StageError, match="compute.gpus is 3, and torch sees 2 here: choose fewer, or check CUDA_VISI"):
        require_gpus(3)
