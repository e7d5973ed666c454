"""Draw outlines of the objects in training scenes: soft masks, smooth, angular, thin or pierced."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.masks.parts import largest_part

Alpha = NDArray[np.float32]
Canvas = NDArray[np.uint8]
Polygon = NDArray[np.float64]


def _angles(count: int) -> NDArray[np.float64]:
    return 2.0 * np.pi * np.arange(count, dtype=np.float64) / count


def _polar(radius: NDArray[np.float64], theta: NDArray[np.float64]) -> Polygon:
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)


def _ellipse(rng: Generator) -> Polygon:
    theta = _angles(48)
    return _polar(np.ones_like(theta), theta)


def _blob(rng: Generator, orders: range, strength: float, smallest: float) -> Polygon:
    theta = _angles(72)
    radius = np.ones_like(theta)
    for order in orders:
        radius += rng.normal(0.0, strength / order) * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    return _polar(np.clip(radius, smallest, None), theta)


def _wavy(rng: Generator) -> Polygon:
    return _blob(rng, range(2, rng.integers(4, 9)), strength=0.35, smallest=0.25)


def _irregular_polygon(rng: Generator) -> Polygon:
    corners = int(rng.integers(3, 9))
    theta = np.sort(_angles(corners) + rng.uniform(-0.8, 0.8, corners) * np.pi / corners)
    return _polar(rng.uniform(0.7, 1.1, corners), theta)


def _rectangle(rng: Generator) -> Polygon:
    height = rng.uniform(0.5, 1.0)
    skew = rng.choice([0.0, rng.uniform(-0.4, 0.4)])
    return np.array([[-1 + skew, -height], [1 + skew, -height], [1 - skew, height], [-1 - skew, height]])


def _star(rng: Generator) -> Polygon:
    tips = int(rng.integers(3, 10))
    radius = np.ones(2 * tips)
    radius[1::2] = rng.uniform(0.3, 0.75)
    return _polar(radius * rng.uniform(0.85, 1.15, 2 * tips), _angles(2 * tips))


def _gear(rng: Generator) -> Polygon:
    theta = _angles(160)
    wave = np.sin(int(rng.integers(3, 12)) * theta)
    sharpness = rng.uniform(1.0, 8.0)
    return _polar(1.0 + rng.uniform(0.08, 0.3) * np.tanh(sharpness * wave), theta)


def _leaf(rng: Generator) -> Polygon:
    half = np.linspace(-1.0, 1.0, 24)
    upper = rng.uniform(0.3, 0.8) * (1 - half**2)
    lower = -rng.uniform(0.1, 0.6) * (1 - half**2)
    return np.concatenate([np.stack([half, upper], 1), np.stack([half, lower], 1)[::-1]])


POLYGONS: tuple[Callable[[Generator], Polygon], ...] = (
    _ellipse, _ellipse, _wavy, _wavy, _irregular_polygon, _rectangle, _star, _gear, _leaf,
)  # fmt: skip


def _place(rng: Generator, polygon: Polygon, radius: float, centre: float) -> NDArray[np.int32]:
    """Squeeze, rotate and scale a unit polygon; return integer coordinates with 4 fractional bits."""
    aspect = np.exp(rng.uniform(0.0, 0.9)) if rng.random() < 0.6 else 1.0
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    placed = (polygon * [1.0, 1.0 / aspect]) @ rotation * radius + centre
    fixed: NDArray[np.int32] = np.round(placed * 16).astype(np.int32)
    return fixed


def _fill(canvas: Canvas, polygon: NDArray[np.int32], value: int = 255) -> None:
    cv2.fillPoly(canvas, [polygon], value, shift=4)


def _polygon(rng: Generator, canvas: Canvas, radius: float) -> None:
    make = POLYGONS[rng.integers(len(POLYGONS))]
    centre = canvas.shape[0] / 2
    _fill(canvas, _place(rng, make(rng), radius, centre))
    if rng.random() < 0.12:  # a bite makes crescents, pac-men and notches
        shift = rng.uniform(0.5, 1.0) * radius * np.array([1.0, rng.choice([-1.0, 1.0])])
        bite = _place(rng, _ellipse(rng), radius * rng.uniform(0.4, 0.9), centre)
        _fill(canvas, bite + np.round(shift * 16).astype(np.int32), 0)


def _pierced(rng: Generator, canvas: Canvas, radius: float) -> None:
    _polygon(rng, canvas, radius)
    centre = canvas.shape[0] / 2
    for _ in range(int(rng.integers(1, 4))):
        hole = _place(rng, POLYGONS[rng.integers(len(POLYGONS))](rng), radius * rng.uniform(0.15, 0.5), centre)
        _fill(canvas, hole + np.round(rng.normal(0, 0.25 * radius * 16, 2)).astype(np.int32), 0)


def _stroke(rng: Generator, canvas: Canvas, radius: float) -> None:
    """Draw a bent line with round ends: a stick, a worm, an arc."""
    steps = 14
    turns = np.cumsum(rng.normal(0, rng.choice([0.02, 0.15, 0.4]), steps) + rng.normal(0, 0.12))
    path = np.cumsum(_polar(np.ones(steps), turns + rng.uniform(0, 2 * np.pi)), axis=0)
    path -= (path.max(0) + path.min(0)) / 2
    path *= 0.9 * radius / max(np.abs(path).max(), 1e-6)
    thickness = max(2, round(radius * rng.uniform(0.06, 0.45)))
    points = np.round((path + canvas.shape[0] / 2) * 16).astype(np.int32)
    cv2.polylines(canvas, [points], False, 255, thickness, shift=4)


def _branches(rng: Generator, canvas: Canvas, radius: float) -> None:
    """Draw bars that meet in the middle: crosses, tees, corners, asterisks."""
    centre = canvas.shape[0] / 2
    bars = int(rng.integers(2, 6))
    regular = rng.random() < 0.6
    for theta in _angles(bars) + rng.uniform(0, 2 * np.pi):
        angle = theta if regular else rng.uniform(0, 2 * np.pi)
        tip = centre + radius * rng.uniform(0.6, 1.0) * np.array([np.cos(angle), np.sin(angle)])
        ends = np.round(np.array([[centre, centre], tip]) * 16).astype(np.int32)
        cv2.polylines(canvas, [ends], False, 255, max(2, round(radius * rng.uniform(0.08, 0.5))), shift=4)


def _lobes(rng: Generator, canvas: Canvas, radius: float) -> None:
    """Draw a few overlapping discs: peanuts, clouds, budding cells."""
    centre = np.full(2, canvas.shape[0] / 2)
    position = centre.copy()
    for _ in range(int(rng.integers(2, 6))):
        lobe = radius * rng.uniform(0.3, 0.6)
        polygon = _place(rng, _ellipse(rng), lobe, 0.0)
        _fill(canvas, polygon + np.round(position * 16).astype(np.int32))
        step = _polar(np.array([lobe * 0.9]), rng.uniform(0, 2 * np.pi, 1))[0]
        position = centre + np.clip(position + step - centre, -0.6 * radius, 0.6 * radius)


def _glyph(rng: Generator, canvas: Canvas, radius: float) -> None:
    text = chr(int(rng.choice(np.frombuffer(b"ABCDEFGHJKLMNPQRSTUVWXYZ2345678&?", dtype=np.uint8))))
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
    scale = radius / 12
    thickness = max(2, round(radius * rng.uniform(0.12, 0.4)))
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)
    corner = (int(canvas.shape[1] - width) // 2, int(canvas.shape[0] + height) // 2)
    cv2.putText(canvas, text, corner, font, scale, 255, thickness)
    if rng.random() < 0.7:
        turn = cv2.getRotationMatrix2D((canvas.shape[1] / 2, canvas.shape[0] / 2), rng.uniform(0, 360), 1.0)
        canvas[:] = cv2.warpAffine(canvas, turn, (canvas.shape[1], canvas.shape[0]))


def _cloud(rng: Generator, canvas: Canvas, radius: float) -> None:
    """Draw a level set of smooth noise that falls off from the middle: rough, sometimes with bays."""
    side = canvas.shape[0]
    grid = int(rng.integers(4, 9))
    noise = cv2.resize(rng.normal(0, 1, (grid, grid)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    axis = (np.arange(side, dtype=np.float32) - side / 2) / radius
    falloff = 1.5 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    canvas[:] = np.where(noise * 0.6 + 0.75 - falloff > 0, 255, 0).astype(np.uint8)


OUTLINES: tuple[tuple[Callable[[Generator, Canvas, float], None], float], ...] = (
    (_polygon, 0.58),
    (_pierced, 0.07),
    (_stroke, 0.09),
    (_branches, 0.05),
    (_lobes, 0.08),
    (_glyph, 0.04),
    (_cloud, 0.09),
)
BREAKABLE = (_pierced, _glyph, _cloud)
"""Outlines that may have several parts, of which the largest is kept."""
_SHARES = np.cumsum([share for _, share in OUTLINES])


def _largest_part(canvas: Canvas) -> Canvas:
    drawn = canvas > 0
    part = largest_part(drawn, connectivity=4)
    return canvas if np.array_equal(part, drawn) else np.where(part, 255, 0).astype(np.uint8)


def draw_outline(rng: Generator, radius_px: float, round_only: bool = False) -> Alpha:
    """Draw a soft mask n x n in 0..1 of one connected object of about `radius_px` in radius, centred.

    `round_only` draws only ellipses and slightly wavy blobs, like nuclei.
    """
    oversampling = 4 if radius_px < 24 else 2
    side = int(2 * np.ceil(radius_px * 1.35) + 4)
    canvas: Canvas = np.zeros((side * oversampling, side * oversampling), dtype=np.uint8)
    radius = radius_px * oversampling
    if round_only:
        polygon = _ellipse(rng) if rng.random() < 0.5 else _blob(rng, range(2, 5), strength=0.15, smallest=0.4)
        _fill(canvas, _place(rng, polygon, radius, canvas.shape[0] / 2))
    else:
        kind = min(int(np.searchsorted(_SHARES, rng.random() * _SHARES[-1])), len(OUTLINES) - 1)
        draw = OUTLINES[kind][0]
        draw(rng, canvas, radius)
        if draw in BREAKABLE:
            canvas = _largest_part(canvas)
    alpha: Alpha = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    return alpha
