"""Check that mmcv's operators run on this machine's GPU, before a training fails in its middle. Imports torch and mmcv.

mmcv that was built where no CUDA compiler was has them for CPUs only, and says so at the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import torch
from mmcv.ops import nms, roi_align
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor

from pipeline.errors import StageError

REMEDY: Final = (
    "build it again here, with a CUDA compiler (nvcc): .venv/bin/pip uninstall onedl-mmcv, then make setup "
    "(docs/installation.md says what it needs); or set compute.device to cpu"
)
_TOLERANCE: Final = 1e-3


@lru_cache(maxsize=1)
def require_gpu_operators() -> None:
    """Raise StageError unless NMS, RoIAlign and deformable attention give on the GPU what they give on the CPU."""
    check_operators(torch.device("cuda"))


def check_operators(device: torch.device) -> dict[str, float]:
    """Return the largest difference between a device and the CPU for each operator; raise StageError for a bad one."""
    differences: dict[str, float] = {}
    for name, operator in OPERATORS.items():
        expected = operator(torch.device("cpu"))
        try:
            answer = operator(device).cpu()
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise StageError(f"mmcv's operator {name} does not run on this GPU ({reason}): {REMEDY}") from error
        same = answer.shape == expected.shape
        differences[name] = float((answer - expected).abs().max()) if same else float("inf")
        if not differences[name] <= _TOLERANCE:
            raise StageError(
                f"mmcv's operator {name} gives other results on this GPU than on the CPU (by {differences[name]:g}): "
                f"{REMEDY}"
            )
    return differences


def _nms(device: torch.device) -> Tensor:
    """Return the boxes that are left of 200 that overlap, with their scores."""
    drawn = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    boxes_xyxy = torch.cat([drawn[:, :2] * 100, drawn[:, :2] * 100 + 10 + drawn[:, 2:4] * 40], dim=1)
    kept: Tensor = nms(boxes_xyxy.to(device), drawn[:, 4].contiguous().to(device), 0.5)[0]
    return kept


def _roi_align(device: torch.device) -> Tensor:
    """Return the features of two regions and their gradient."""
    drawn = torch.rand(1, 8, 32, 32, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    regions = torch.tensor([[0, 1.5, 2.5, 20, 25], [0, 8, 4, 30, 12]], dtype=torch.float32, device=device)
    features = roi_align(drawn, regions, (7, 7), 1.0, 2, "avg", True)
    (gradient,) = torch.autograd.grad(features.square().sum(), drawn)
    return torch.cat([features.detach().flatten(), gradient.flatten()])


def _deformable_attention(device: torch.device) -> Tensor:
    """Return the attended values of ten queries over two levels and their gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[8, 8], [4, 4]], device=device)
    value = torch.rand(1, 80, 2, 16, generator=generator).to(device).requires_grad_()
    locations = torch.rand(1, 10, 2, 2, 4, 2, generator=generator).to(device)
    weights = torch.rand(1, 10, 2, 2, 4, generator=generator).to(device)
    if device.type == "cpu":  # mmcv has no operator there: detectors use the same product
        attended = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    else:
        starts = torch.tensor([0, 64], device=device)
        attended = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    (gradient,) = torch.autograd.grad(attended.square().sum(), value)
    return torch.cat([attended.detach().flatten(), gradient.flatten()])


OPERATORS: Final[dict[str, Callable[[torch.device], Tensor]]] = {
    "NMS": _nms,
    "RoIAlign": _roi_align,
    "deformable attention": _deformable_attention,
}
