"""One picture of the shapes dataset: textured objects with random outlines on a textured background.

The class of an object is its texture, which is easy to tell. Its outline is drawn at random and says nothing
about the class, so what a detector has left to learn is the outline itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
Rng = np.random.Generator

# The first are the easiest to tell apart.
CLASS_NAMES: Final = ("striped", "ringed", "speckled", "checked", "dotted")

# Masks are drawn this many times larger than the picture; a pixel belongs to what covers half of it.
SUPERSAMPLING: Final = 4
# cv2.fillPoly takes coordinates as integers with this many binary places.
_FRACTION_BITS: Final = 4
_OUTLINE_POINTS: Final = 120


@dataclass(frozen=True)
class Difficulty:
    """What makes a picture hard; ranges are (lowest, highest), lengths are shares of the picture's side."""

    objects: tuple[int, int]
    """Objects in a picture."""
    radius: tuple[float, float]
    """Radius of the disc of the object's area."""
    roughness: float
    """How far an outline strays from an ellipse: 0 not at all, 1 deep bays and thin arms."""
    contrast: tuple[float, float]
    """Share of the way from the colours under an object to a random colour."""
    texture: tuple[float, float]
    """Distance between the light and the dark parts of a texture, in grey levels."""
    crowding: float
    """Probability that an object is put next to or under one that is already there."""
    min_visible_share: float
    """Objects that others cover to less than this share are left out."""
    shadow: float
    """Strongest darkening by an object's shadow, as a share."""
    background: float
    """Strength of the background's own clouds and edges, in grey levels."""
    blur_px: float
    """Strongest blur of the finished picture of 128 px; grows with the picture."""
    noise: tuple[float, float]
    """Standard deviation of the sensor's noise, in grey levels."""


DIFFICULTIES: Final[Mapping[str, Difficulty]] = MappingProxyType(
    {
        "easy": Difficulty(
            objects=(2, 5),
            radius=(0.09, 0.17),
            roughness=0.35,
            contrast=(0.6, 1.0),
            texture=(80, 130),
            crowding=0.0,
            min_visible_share=1.0,
            shadow=0.0,
            background=14,
            blur_px=0.0,
            noise=(2, 5),
        ),
        "medium": Difficulty(
            objects=(3, 8),
            radius=(0.065, 0.16),
            roughness=0.7,
            contrast=(0.15, 0.9),
            texture=(60, 115),
            crowding=0.35,
            min_visible_share=0.6,
            shadow=0.35,
            background=26,
            blur_px=0.5,
            noise=(4, 9),
        ),
        "hard": Difficulty(
            objects=(4, 11),
            radius=(0.055, 0.15),
            roughness=0.9,
            contrast=(0.05, 0.6),
            texture=(45, 90),
            crowding=0.55,
            min_visible_share=0.45,
            shadow=0.55,
            background=38,
            blur_px=0.8,
            noise=(7, 14),
        ),
    }
)

# Smallest visible part of an object, as a share of the picture: 41 pixels of 128 x 128.
MIN_VISIBLE_AREA: Final = 0.0025


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it."""

    image_rgb: NDArray[np.uint8]
    """(size, size, 3)."""
    masks: NDArray[np.bool_]
    """(objects, size, size), the visible parts: disjoint, none empty."""
    class_indices: tuple[int, ...]
    """Into CLASS_NAMES, one an object."""


@dataclass(frozen=True)
class _Object:
    class_index: int
    window: tuple[slice, slice]
    """Rows and columns of the picture that hold the object and its shadow."""
    coverage: FloatArray
    """Share of every pixel of the window that the object covers, 0 to 1."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.coverage >= 0.5


def draw_scene(rng: Rng, size_px: int, difficulty: Difficulty, classes: int = len(CLASS_NAMES)) -> Scene:
    """Draw one picture of size_px x size_px; the same generator state gives the same picture.

    classes: how many of CLASS_NAMES there are objects of, from the first on.
    """
    objects, masks = _place_objects(rng, size_px, difficulty, classes)
    picture = _background(rng, size_px, difficulty)
    light_xy = _unit_vector(rng)
    for each in reversed(objects):  # they are placed from front to back
        _paint(rng, picture, each, light_xy, difficulty)
    return Scene(_photograph(rng, picture, difficulty), masks, tuple(each.class_index for each in objects))


def _place_objects(
    rng: Rng, size_px: int, difficulty: Difficulty, classes: int
) -> tuple[list[_Object], NDArray[np.bool_]]:
    """Place objects from front to back, so that one that would hardly be seen is never painted at all."""
    wanted = int(rng.integers(difficulty.objects[0], difficulty.objects[1] + 1))
    objects: list[_Object] = []
    centers_xy: list[DoubleArray] = []
    visible_masks = np.zeros((wanted, size_px, size_px), np.bool_)
    taken = np.zeros((size_px, size_px), np.bool_)
    for _ in range(8 * wanted):
        radius_px = size_px * rng.uniform(*difficulty.radius)
        if centers_xy and rng.random() < difficulty.crowding:
            neighbour_xy = centers_xy[int(rng.integers(len(centers_xy)))]
            center_xy = neighbour_xy + radius_px * rng.uniform(0.8, 1.8) * _unit_vector(rng)
        else:
            center_xy = size_px * rng.uniform(0.05, 0.95, 2)
        outline_xy = center_xy + radius_px * _outline(rng, difficulty.roughness)
        placed = _rasterize(outline_xy, int(rng.integers(classes)), size_px)
        if placed is None:
            continue
        visible = placed.mask & ~taken[placed.window]
        least = max(MIN_VISIBLE_AREA * size_px**2, difficulty.min_visible_share * placed.mask.sum())
        if visible.sum() < least:
            continue
        visible_masks[(len(objects), *placed.window)] = visible
        taken[placed.window] |= visible
        objects.append(placed)
        centers_xy.append(center_xy)
        if len(objects) == wanted:
            break
    return objects, visible_masks[: len(objects)]


def _outline(rng: Rng, roughness: float) -> DoubleArray:
    """Random closed outline around the origin, (points, 2) of x, y, with the area of the unit disc."""
    angle = np.linspace(0, 2 * math.pi, _OUTLINE_POINTS, endpoint=False, dtype=np.float64)
    radius = _radius_profile(rng, angle, roughness)
    points_xy = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points_xy[:, 1] *= rng.uniform(0.55, 1.0)
    # Bending a long outline makes bays that no function of the angle can have: beans, crescents, hooks.
    bend = roughness * rng.uniform(-0.7, 0.7)
    points_xy[:, 1] += bend * (points_xy[:, 0] ** 2 - 0.5)
    turn = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points_xy = points_xy @ rotation
    x, y = points_xy.T
    area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return np.asarray(points_xy * math.sqrt(math.pi / area))


def _radius_profile(rng: Rng, angle: DoubleArray, roughness: float) -> DoubleArray:
    """Radius over the angle: a smooth blob, a lobed one or a spiky one, each with a rough edge."""
    family = rng.integers(3)
    phase = rng.uniform(0, 2 * math.pi)
    if family == 0:
        radius = np.ones_like(angle)
    elif family == 1:
        lobes = rng.integers(3, 7)
        radius = 1 + roughness * rng.uniform(0.2, 0.5) * np.cos(lobes * angle + phase)
    else:
        spikes = rng.integers(4, 9)
        sharpness = 1 - np.abs(np.sin(spikes * angle / 2 + phase))
        # Every spike gets its own height from a slow wave around the outline.
        height = 1 + 0.35 * np.cos(rng.integers(1, 4) * angle + rng.uniform(0, 2 * math.pi))
        radius = 0.65 + roughness * rng.uniform(0.5, 1.0) * sharpness**1.3 * height
    for waves, strength in ((2, 0.16), (3, 0.14), (4, 0.11), (5, 0.09), (8, 0.05), (12, 0.035), (17, 0.025)):
        amplitude = roughness * strength * rng.normal()
        radius = radius + amplitude * np.cos(waves * angle + rng.uniform(0, 2 * math.pi))
    return np.maximum(radius, 0.25)


def _rasterize(outline_xy: DoubleArray, class_index: int, size_px: int) -> _Object | None:
    """Cover pixels by an outline, given in picture coordinates (pixel i spans i to i + 1); None: outside."""
    margin_px = math.ceil(0.06 * size_px)  # room for the shadow
    low = np.clip(np.floor(outline_xy.min(axis=0)).astype(int) - margin_px, 0, size_px)
    high = np.clip(np.ceil(outline_xy.max(axis=0)).astype(int) + margin_px, 0, size_px)
    width, height = (high - low).tolist()
    if not (width and height):
        return None
    canvas = np.zeros((SUPERSAMPLING * height, SUPERSAMPLING * width), np.uint8)
    # OpenCV's integer coordinates are pixel centres.
    points_xy = ((outline_xy - low) * SUPERSAMPLING - 0.5) * 2**_FRACTION_BITS
    cv2.fillPoly(canvas, [np.round(points_xy).astype(np.int32)], 255, shift=_FRACTION_BITS)
    coverage = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    return _Object(class_index, (slice(low[1], high[1]), slice(low[0], high[0])), coverage)


def _background(rng: Rng, size_px: int, difficulty: Difficulty) -> FloatArray:
    """Two colours that flow into each other in clouds and meet at edges, with a grain: (size, size, 3)."""
    base = rng.uniform(60, 195, 3).astype(np.float32)
    tint = (difficulty.background * rng.uniform(-1, 1, 3)).astype(np.float32)
    clouds = _smooth_noise(rng, (size_px, size_px), cells=int(rng.integers(3, 6)))
    # Patches with an edge of their own, so that not every edge in a picture is an object's.
    patches = np.tanh(6 * _smooth_noise(rng, (size_px, size_px), cells=int(rng.integers(3, 8))))
    grain = _smooth_noise(rng, (size_px, size_px), cells=max(2, size_px // 3))
    luminance = np.float32(difficulty.background) * (0.6 * clouds + 0.5 * patches + 0.3 * grain)
    picture: FloatArray = base + luminance[..., None] + (patches + clouds)[..., None] * tint
    return picture


def _paint(rng: Rng, picture: FloatArray, each: _Object, light_xy: FloatArray, difficulty: Difficulty) -> None:
    """Paint an object and its shadow over what is there; the picture is changed in place."""
    size_px = picture.shape[0]
    region = picture[each.window]
    if difficulty.shadow:
        strength = rng.uniform(0, difficulty.shadow)
        region *= 1 - strength * _shadow(each.coverage, light_xy, 0.02 * size_px)[..., None]
    below = region[each.mask].mean(axis=0)
    color = below + rng.uniform(*difficulty.contrast) * (rng.uniform(20, 235, 3) - below)
    # Light and dark differ mostly in luminance, a little in hue: a texture shows in grey as well.
    step = rng.uniform(*difficulty.texture) / 2 * (1 + rng.uniform(-0.3, 0.3, 3)) * rng.choice((-1, 1))
    # What is cut off at black or white loses its texture; shading adds a sixth at most.
    color = np.clip(color, 10 + np.abs(step), 215 - np.abs(step))
    texture = _texture(rng, each, size_px)
    shading = 1 + 0.12 * _ramp(each.coverage.shape, light_xy)
    surface = (color.astype(np.float32) + texture[..., None] * step.astype(np.float32)) * shading[..., None]
    region += each.coverage[..., None] * (surface - region)


def _shadow(coverage: FloatArray, light_xy: FloatArray, reach_px: float) -> FloatArray:
    """A soft copy of the object's coverage, away from the light."""
    height, width = coverage.shape
    shift = np.array([[1, 0, reach_px * light_xy[0]], [0, 1, reach_px * light_xy[1]]], np.float32)
    moved = cv2.warpAffine(coverage, shift, (width, height))
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), max(0.5, 0.6 * reach_px)), np.float32)


def _texture(rng: Rng, each: _Object, size_px: int) -> FloatArray:
    """The texture of the object's class over its window, from -1 (one colour) to 1 (the other)."""
    height, width = each.coverage.shape
    period_px = max(3.5, size_px * rng.uniform(0.038, 0.058))
    wave: FloatArray
    name = CLASS_NAMES[each.class_index]
    if name == "speckled":
        cells = (math.ceil(2.2 * height / period_px), math.ceil(2.2 * width / period_px))
        wave = 2 * np.asarray(cv2.resize(rng.normal(size=cells).astype(np.float32), (width, height)), np.float32)
        return np.tanh(wave)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    if name == "ringed":
        weights = each.coverage / each.coverage.sum()
        from_center = np.hypot(rows - (rows * weights).sum(), columns - (columns * weights).sum())
        wave = 2 * np.sin(from_center * np.float32(2 * math.pi / period_px))
        return np.tanh(wave)
    cos, sin = _unit_vector(rng)
    along, across = columns * cos + rows * sin, rows * cos - columns * sin
    # Checks and dots repeat in two directions; they need a little more room to be told apart.
    frequency = np.float32(2 * math.pi / (1.35 * period_px))
    if name == "striped":
        wave = 2 * np.sin(along * np.float32(2 * math.pi / period_px))
    elif name == "checked":
        wave = 4 * np.sin(along * frequency) * np.sin(across * frequency)
    else:
        wave = 3 * (np.cos(along * frequency) + np.cos(across * frequency) - np.float32(0.7))
    return np.tanh(wave)


def _photograph(rng: Rng, picture: FloatArray, difficulty: Difficulty) -> NDArray[np.uint8]:
    """Lens and sensor: a little blur, noise, 8 bits."""
    sigma_px = rng.uniform(0, difficulty.blur_px) * picture.shape[0] / 128
    if sigma_px > 0.1:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.float32)
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(*difficulty.noise))
    return np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


def _smooth_noise(rng: Rng, shape: tuple[int, int], cells: int) -> FloatArray:
    """Noise that varies over `cells` cells a side, with mean about 0 and deviation about 1."""
    coarse = rng.normal(size=(cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _ramp(shape: tuple[int, ...], direction_xy: FloatArray) -> FloatArray:
    """From 1 at the side that the light comes from to -1 at the other."""
    y = np.linspace(1, -1, shape[0], dtype=np.float32)[:, None] * direction_xy[1]
    x = np.linspace(1, -1, shape[1], dtype=np.float32)[None, :] * direction_xy[0]
    ramp: FloatArray = x + y
    return ramp


def _unit_vector(rng: Rng) -> FloatArray:
    angle = rng.uniform(0, 2 * math.pi)
    return np.array([math.cos(angle), math.sin(angle)], np.float32)
