"""Paint textures of training scenes: two colours mixed by a random pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.float32]
Image = NDArray[np.float32]
Colour = NDArray[np.float32]
Shape = tuple[int, ...]


def random_colour(rng: Generator, grey: bool) -> Colour:
    """Draw a colour, (3,) float32 in 0..255; equal channels when grey."""
    if grey:
        return np.full(3, rng.uniform(0, 255), dtype=np.float32)
    return rng.uniform(0, 255, 3).astype(np.float32)


def smooth_noise(rng: Generator, shape: Shape, cells: int) -> Field:
    """Draw noise in 0..1 with about `cells` bumps along each side."""
    grid = rng.random((cells, cells), dtype=np.float32)
    field = cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    smooth: Field = np.clip(field, 0, 1)
    return smooth


def _coordinates(rng: Generator, shape: Shape, period_px: float) -> tuple[Field, Field]:
    """Return rotated, shifted coordinates that grow by 2 pi every `period_px`, sometimes bent."""
    turn = rng.uniform(0, np.pi)
    rows = np.arange(shape[0], dtype=np.float32)[:, None]
    columns = np.arange(shape[1], dtype=np.float32)[None, :]
    scale = 2 * np.pi / period_px
    cosine, sine = np.float32(np.cos(turn) * scale), np.float32(np.sin(turn) * scale)
    along = columns * cosine + rows * sine + np.float32(rng.uniform(0, 6.3))
    across = rows * cosine - columns * sine + np.float32(rng.uniform(0, 6.3))
    if rng.random() < 0.3:
        bend = smooth_noise(rng, shape, int(rng.integers(2, 6)))
        along = along + bend * np.float32(rng.uniform(1, 6))
    return along, across


def _above(field: NDArray[np.floating[Any]], level: float) -> Field:
    return (field > level).astype(np.float32)


def _wave(phase: Field) -> Field:
    wave: Field = np.sin(phase).astype(np.float32)
    return 0.5 + 0.5 * wave


def _period(rng: Generator) -> float:
    return float(np.exp(rng.uniform(np.log(3), np.log(24))))


def _flat(rng: Generator, shape: Shape) -> Field:
    return np.zeros(shape, dtype=np.float32)


def _ramp(rng: Generator, shape: Shape) -> Field:
    slope = rng.normal(0, 1, 2)
    rows = np.linspace(-0.5, 0.5, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None, :]
    return np.clip(0.5 + np.float32(slope[0]) * rows + np.float32(slope[1]) * columns, 0, 1)


def _rings(rng: Generator, shape: Shape) -> Field:
    rows = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(rng.uniform(0, shape[0]))
    columns = np.arange(shape[1], dtype=np.float32)[None, :] - np.float32(rng.uniform(0, shape[1]))
    distance: Field = np.sqrt(rows**2 + columns**2)
    return _wave(distance * np.float32(2 * np.pi / _period(rng)))


def _stripes(rng: Generator, shape: Shape) -> Field:
    along, _ = _coordinates(rng, shape, _period(rng))
    if rng.random() < 0.5:
        return _above(np.sin(along), rng.uniform(-0.6, 0.6))
    return _wave(along)


def _checks(rng: Generator, shape: Shape) -> Field:
    along, across = _coordinates(rng, shape, 1.5 * _period(rng))
    return _above(np.sin(along) * np.sin(across), 0)


def _dots(rng: Generator, shape: Shape) -> Field:
    along, across = _coordinates(rng, shape, _period(rng) + 2)
    return _above(np.cos(along) + np.cos(across), rng.uniform(0.2, 1.3))


def _grid(rng: Generator, shape: Shape) -> Field:
    along, across = _coordinates(rng, shape, 1.5 * _period(rng))
    return _above(np.maximum(np.sin(along), np.sin(across)), rng.uniform(0.6, 0.95))


def _clouds(rng: Generator, shape: Shape) -> Field:
    cells = int(rng.integers(2, 14))
    field = smooth_noise(rng, shape, cells)
    if rng.random() < 0.5:
        field = 0.65 * field + 0.35 * smooth_noise(rng, shape, cells * 3)
    return field


def _patches(rng: Generator, shape: Shape) -> Field:
    return _above(_clouds(rng, shape), rng.uniform(0.4, 0.6))


def _grain(rng: Generator, shape: Shape) -> Field:
    field = rng.random(shape, dtype=np.float32)
    if rng.random() < 0.5:
        field = np.clip(0.5 + 2.5 * (cv2.GaussianBlur(field, (0, 0), rng.uniform(0.7, 2.0)) - 0.5), 0, 1)
    return field


def _specks(rng: Generator, shape: Shape) -> Field:
    return _above(-rng.random(shape, dtype=np.float32), -rng.uniform(0.02, 0.25))


PATTERNS: tuple[tuple[Callable[[Generator, Shape], Field], float], ...] = (
    (_flat, 0.22),
    (_ramp, 0.12),
    (_rings, 0.04),
    (_stripes, 0.14),
    (_checks, 0.08),
    (_dots, 0.08),
    (_grid, 0.06),
    (_clouds, 0.1),
    (_patches, 0.06),
    (_grain, 0.06),
    (_specks, 0.04),
)
_SHARES = np.cumsum([share for _, share in PATTERNS])


def _pattern(rng: Generator, shape: Shape) -> Field:
    kind = min(int(np.searchsorted(_SHARES, rng.random() * _SHARES[-1])), len(PATTERNS) - 1)
    return PATTERNS[kind][0](rng, shape)


def paint(rng: Generator, shape: Shape, first: Colour, second: Colour, grey: bool) -> Image:
    """Paint a texture of two colours, sometimes with a third over them: (h, w, 3) float32 in 0..255."""
    field = _pattern(rng, shape)[..., None]
    image: Image = first + (second - first) * field
    if rng.random() < 0.15:
        third = random_colour(rng, grey)
        image += (third - image) * (_pattern(rng, shape)[..., None] * np.float32(rng.uniform(0.2, 0.8)))
    return image
