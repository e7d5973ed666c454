"""mmcv without operators for the GPU is noticed before it is needed, with the remedy."""

from __future__ import annotations

import pytest
import torch

from pipeline.detection import gpu_operators
from pipeline.detection.gpu_operators import OPERATORS, check_operators, require_gpu_operators
from pipeline.errors import StageError

CPU = torch.device("cpu")


def test_a_device_that_computes_the_same_is_right():
    assert check_operators(CPU) == {"NMS": 0, "RoIAlign": 0, "deformable attention": 0}
    assert 1 < len(OPERATORS["NMS"](CPU)) < 200  # some boxes are suppressed


@pytest.mark.parametrize("name", list(OPERATORS))
def test_an_operator_that_is_missing_is_named_with_the_remedy(monkeypatch, name):
    def missing(device: torch.device) -> torch.Tensor:
        if device.type == "cpu":
            return torch.zeros(1)
        raise RuntimeError("implementation for device cuda:0 not found.\nstack")

    monkeypatch.setattr(gpu_operators, "OPERATORS", {name: missing})
    with pytest.raises(StageError) as caught:
        check_operators(torch.device("meta"))
    told = str(caught.value)
    assert told.startswith(
        f"mmcv's operator {name} does not run on this GPU (implementation for device cuda:0 not found.)"
    )
    assert "make setup" in told
    assert "stack" not in told


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.zeros(2), torch.full((3,), float("nan"))])
def test_an_operator_that_computes_something_else_is_named(monkeypatch, wrong):
    answers = iter([torch.zeros(3), wrong])
    monkeypatch.setattr(gpu_operators, "OPERATORS", {"NMS": lambda device: next(answers)})
    with pytest.raises(StageError, match="mmcv's operator NMS gives other results on this GPU than on the CPU"):
        check_operators(CPU)


def test_a_process_checks_its_gpu_once(monkeypatch):
    asked: list[torch.device] = []
    monkeypatch.setattr(gpu_operators, "check_operators", asked.append)
    require_gpu_operators.cache_clear()
    require_gpu_operators()
    require_gpu_operators()
    require_gpu_operators.cache_clear()
    assert asked == [torch.device("cuda")]
