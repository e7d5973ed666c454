"""Choose the device that models run on, and the number format that it multiplies fastest in. Imports torch."""

from __future__ import annotations

import ctypes
import time
from functools import lru_cache
from typing import Final

import torch

from pipeline.compute.settings import Device, NumberFormat, Precision
from pipeline.errors import StageError

CLEARLY_FASTER: Final = 2.0
"""A CPU computes in bf16 if a product takes at most this part of its time in float32: half."""

_SIDE: Final = 512
"""Rows and columns of the matrices that are multiplied to find out: larger than a core's first caches."""

_SECONDS: Final = 0.1
"""Time that this takes, unless two products of each format take longer."""


_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Options of glibc's allocator, as its malloc.h numbers them."""


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device, for `auto` a GPU if there is one; raise StageError for a GPU that torch does not see."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise StageError("device cuda: torch sees no GPU here; choose cpu, or install a driver that fits torch")
    return found


def resolve_precision(precision: Precision, device: torch.device) -> NumberFormat:
    """Return a precision; for `auto` bf16 where the device multiplies matrices clearly faster in it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return _faster_on_cpu()


def allow_tf32(device: torch.device, precision: Precision) -> None:
    """Let a GPU multiply what stays float32 in TF32, unless float32 was asked for; for the whole process.

    TF32 has the exponents of float32 and the 10 bits of half precision. On CPUs nothing changes.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")


def keep_freed_memory() -> None:
    """Let this process keep up to 512 MB of memory that it has freed, where the C library is glibc.

    Else it gives memory back after an image, and takes the same again, page by page, at the next.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 1 << 25)
        set_option(_TRIM_THRESHOLD, 1 << 29)


def prepare_worker(device: torch.device, precision: Precision) -> None:
    """Set up a process that runs models on a device: on a CPU it is one core, and keeps the memory that it frees.

    With a number of threads that depends on the workers, sums would be rounded differently, and the same images would
    get another digest.
    """
    allow_tf32(device, precision)
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(1)


def require_gpus(gpus: int) -> None:
    """Raise StageError on a machine with GPUs, but with fewer than that."""
    if torch.cuda.is_available() and torch.cuda.device_count() < gpus:
        raise StageError(
            f"compute.gpus is {gpus}, and torch sees {torch.cuda.device_count()} here: choose fewer, or check "
            "CUDA_VISIBLE_DEVICES"
        )


def fastest_format(device: Device) -> NumberFormat:
    """Return the number format that models compute in on a device of this process if nobody chose one."""
    return resolve_precision("auto", usable_device(device))


@lru_cache(maxsize=1)
def _faster_on_cpu() -> NumberFormat:
    """Return the faster format of this machine's cores, which are measured once in a process.

    What a processor says that it can do is not enough: some have bf16 instructions that are slower than float32's.
    """
    seconds = product_seconds()
    return "bf16" if seconds["bf16"] * CLEARLY_FASTER <= seconds["fp32"] else "fp32"


def product_seconds() -> dict[NumberFormat, float]:
    """Return the shortest time of a product of two matrices on one core, in both formats, measured in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker computes
    try:
        drawn = torch.rand(2, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
        factors: dict[NumberFormat, torch.Tensor] = {"fp32": drawn, "bf16": drawn.bfloat16()}
        fastest: dict[NumberFormat, float] = dict.fromkeys(factors, float("inf"))
        begun, rounds = time.perf_counter(), 0
        while rounds < 2 or time.perf_counter() - begun < _SECONDS:
            for number_format, (left, right) in factors.items():
                before = time.perf_counter()
                torch.mm(left, right)
                fastest[number_format] = min(fastest[number_format], time.perf_counter() - before)
            rounds += 1
    finally:
        torch.set_num_threads(threads)
    return fastest
