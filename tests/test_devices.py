"""The number format of `auto` is measured, once, by the process that gives the work."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from pipeline.compute import devices
from pipeline.compute.devices import fastest_format, product_seconds, resolve_precision
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from tests.test_compute import cluster_in_threads

CPU = torch.device("cpu")
AUTO = ComputeSettings(device="cpu")


@pytest.fixture
def measured(monkeypatch):
    """Give the cores of this machine other speeds; return the list of the measurements."""
    asked: list[dict[str, float]] = []

    def put(fp32: float, bf16: float) -> list[dict[str, float]]:
        def answer() -> dict[str, float]:
            asked.append({"fp32": fp32, "bf16": bf16})
            return asked[-1]

        monkeypatch.setattr(devices, "product_seconds", answer)
        devices._faster_on_cpu.cache_clear()
        return asked

    yield put
    devices._faster_on_cpu.cache_clear()


@pytest.mark.parametrize(("bf16", "expected"), [(0.2, "bf16"), (0.5, "bf16"), (0.6, "fp32"), (2.0, "fp32")])
def test_auto_is_bf16_where_it_takes_half_the_time_or_less(measured, bf16, expected):
    asked = measured(1.0, bf16)
    assert [resolve_precision("auto", CPU) for _ in range(3)] == [expected] * 3
    assert len(asked) == 1  # kept for the process


def test_a_chosen_precision_is_not_measured(measured):
    asked = measured(1.0, 0.1)
    assert [resolve_precision(chosen, CPU) for chosen in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert Execution(AUTO.model_copy(update={"precision": "fp32"})).settled.precision == "fp32"
    assert asked == []


def test_the_real_measurement_takes_a_moment_and_leaves_the_threads_as_they_are(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: set[int] = set()
    multiply = torch.mm

    def noted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return multiply(left, right)

    monkeypatch.setattr(torch, "mm", noted)
    try:
        seconds = product_seconds()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert seen == {1}
    assert set(seconds) == {"fp32", "bf16"}
    assert all(0 < each < 30 for each in seconds.values())


@pytest.mark.parametrize(("bf16", "supports", "expected"), [(9.0, True, "bf16"), (0.1, False, "fp32")])
def test_a_gpu_is_asked_and_its_cpu_is_not(measured, monkeypatch, bf16, supports, expected):
    asked = measured(1.0, bf16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supports)
    assert fastest_format("auto") == expected
    assert asked == []


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cuda", "auto", ["high"]), ("cuda", "bf16", ["high"]), ("cuda", "fp32", ["highest"]), ("cpu", "auto", [])],
)
def test_what_stays_float32_is_multiplied_in_tf32_on_a_gpu_unless_fp32_is_asked_for(
    monkeypatch, device, precision, expected
):
    chosen: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    devices.allow_tf32(torch.device(device), precision)
    assert chosen == expected


def test_a_run_decides_once_and_says_so_in_its_record(measured):
    asked = measured(1.0, 0.1)
    execution = Execution(AUTO)
    assert execution.made_with == {}
    assert execution.settled == AUTO.model_copy(update={"precision": "bf16"})
    measured(1.0, 9.0)  # another machine would decide otherwise
    assert execution.settled.precision == "bf16"
    assert execution.made_with == {"precision": "bf16"}
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "expected"), [(["bf16", "bf16"], "bf16"), (["bf16", "fp32"], "fp32")])
def test_the_workers_of_a_cluster_are_asked_and_must_agree_on_bf16(measured, monkeypatch, answers, expected):
    asked = measured(1.0, 9.0)
    left = list(answers)
    monkeypatch.setattr(devices, "fastest_format", Answering(left))
    with cluster_in_threads(2) as cluster:
        execution = Execution(AUTO.model_copy(update={"scheduler": cluster.scheduler_address}))
        assert execution.settled.precision == expected
    assert left == []
    assert asked == []  # where the command runs is of no matter


class Answering:
    """Another answer for each worker: these are threads of this process, in which a pickled copy would not count."""

    left: ClassVar[list[str]] = []

    def __init__(self, left: list[str]) -> None:
        Answering.left = left

    def __call__(self, device: str) -> str:
        assert device == "cpu"
        return Answering.left.pop()


def broken(device: str) -> str:
    raise ImportError(device)


@pytest.mark.slow
def test_workers_that_cannot_answer_leave_it_to_the_check_that_refuses_them(monkeypatch):
    monkeypatch.setattr(devices, "fastest_format", broken)
    with cluster_in_threads(1) as cluster:
        execution = Execution(AUTO.model_copy(update={"scheduler": cluster.scheduler_address}))
        assert execution.settled.precision == "fp32"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_freed_memory_is_kept_with_options_that_the_allocator_takes(monkeypatch):
    taken = []
    mallopt = ctypes.CDLL(None).mallopt

    def set_option(option, value):
        taken.append(mallopt(option, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(mallopt=set_option))
    devices.keep_freed_memory()
    assert taken == [1, 1]


def test_another_allocator_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace())
    devices.keep_freed_memory()
