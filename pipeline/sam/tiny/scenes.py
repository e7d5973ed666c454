"""Draw procedural training scenes for `sam_tiny` from a seed: of many kinds, and not those of the demo.

A scene is a background, a few to many objects drawn one over the other, and a camera (light, blur, noise,
compression). Colour, grey and microscope-like scenes alternate; an object differs from its surroundings by
colour, brightness, texture, an edge or a shadow, and sometimes by very little.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.masks.windows import Window, whole_image
from pipeline.sam.tiny.outlines import Alpha, draw_outline
from pipeline.sam.tiny.textures import Colour, Image, paint, random_colour, smooth_noise

SEED_DOMAIN = 0x5A3717
"""Mixed into every seed, so that no other generator of this project draws the same numbers."""

MIN_VISIBLE_PX = 20
MIN_VISIBLE_SHARE = 0.3

Slices = tuple[slice, slice]


@dataclass(frozen=True)
class TrainingScene:
    """image_rgb: (S, S, 3) uint8. labels: (S, S) int32, 0 background, 1..N the visible part of each object."""

    image_rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]

    @property
    def instances(self) -> int:
        """Return the number of objects."""
        return int(self.labels.max())


def _slices(centre_xy: NDArray[np.float64], patch_side: int, side: int) -> tuple[Slices, Slices] | None:
    """Return where a patch is on the canvas, and which part of the patch that is; None where it is outside."""
    left, top = np.round(centre_xy - patch_side / 2).astype(int)
    patch = Window(left, top, left + patch_side, top + patch_side)
    seen = patch & whole_image(side, side)
    return None if min(seen.width, seen.height) < 2 else (seen.in_image, patch.slices(seen))


def _crop(alpha: Alpha) -> Alpha:
    """Return the smallest square about the centre that holds all of the object."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return alpha
    side = alpha.shape[0]
    margin = max(0, min(rows[0], columns[0], side - 1 - rows[-1], side - 1 - columns[-1]) - 2)
    return alpha[margin : side - margin, margin : side - margin]


def _blend(target: Image, colour: Image, alpha: Alpha) -> None:
    target += (colour - target) * alpha[..., None]


def _edge(alpha: Alpha, width_px: int) -> Alpha:
    kernel = np.ones((2 * width_px + 1, 2 * width_px + 1), dtype=np.uint8)
    inner: Alpha = alpha - np.asarray(cv2.erode(alpha, kernel, borderValue=0), np.float32)
    return inner


class _Painter:
    """Painter of one scene: the float canvas, its labels and the area that each object was drawn with."""

    def __init__(self, rng: Generator, side: int, grey: bool) -> None:
        self.rng, self.side, self.grey = rng, side, grey
        self.base = random_colour(rng, grey)
        self.base_partner = self._partner(self.base)
        self.image: Image = paint(rng, (side, side), self.base, self.base_partner, grey)
        self.labels = np.zeros((side, side), dtype=np.int32)
        self.drawn_px: list[int] = []

    def _partner(self, colour: Colour) -> Colour:
        """Return a second colour for a texture: any colour, or a near one for a faint texture."""
        if self.rng.random() < 0.5:
            return random_colour(self.rng, self.grey)
        return self._near(colour, self.rng.uniform(5, 50))

    def _near(self, colour: Colour, spread: float) -> Colour:
        shift = self.rng.normal(0, spread, 1 if self.grey else 3)
        return np.clip(colour + shift, 0, 255).astype(np.float32)

    def clutter(self) -> None:
        """Draw marks that belong to the background: lines and specks that are not objects."""
        for _ in range(int(self.rng.integers(2, 14))):
            start, end = self.rng.integers(-20, self.side + 20, (2, 2)).tolist()
            colour = self._near(self.base, 40).tolist()
            if self.rng.random() < 0.5:
                end = [start[0] + (end[0] - start[0]) // 8, start[1] + (end[1] - start[1]) // 8]
            cv2.line(self.image, start, end, colour, int(self.rng.integers(1, 3)), cv2.LINE_AA)

    def _shadow(self, centre_xy: NDArray[np.float64], alpha: Alpha) -> None:
        offset = self.rng.uniform(-1, 1, 2) * alpha.shape[0] * 0.15
        slices = _slices(centre_xy + offset, alpha.shape[0], self.side)
        if slices is not None:
            soft = cv2.GaussianBlur(alpha, (0, 0), max(0.8, alpha.shape[0] * 0.04))[slices[1]]
            self.image[slices[0]] *= (1 - self.rng.uniform(0.2, 0.7) * soft)[..., None]

    def _body(self, alpha: Alpha, base: Colour | None) -> Image:
        """Return the object's colours: a texture, sometimes a part in another one, shading and an edge."""
        rng = self.rng
        colour = random_colour(rng, self.grey) if base is None else base
        partner = self.base_partner if base is self.base else self._partner(colour)
        body = paint(rng, alpha.shape, colour, partner, self.grey)
        side = alpha.shape[0]
        if side > 14 and rng.random() < 0.25:
            part = draw_outline(rng, side * rng.uniform(0.1, 0.25))
            slices = _slices(side / 2 + rng.normal(0, side * 0.12, 2), part.shape[0], side)
            if slices is not None:
                spot = random_colour(rng, self.grey)
                inner = paint(rng, alpha[slices[0]].shape, spot, self._partner(spot), self.grey)
                _blend(body[slices[0]], inner, part[slices[1]])
        if rng.random() < 0.35:
            ramp = np.linspace(-1, 1, side, dtype=np.float32)
            slope = rng.normal(0, 0.25, 2)
            body *= np.clip(1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :], 0, 2)[..., None]
        if side > 12 and rng.random() < 0.25:
            rim = _edge(alpha, int(rng.integers(1, 3)))[..., None] * rng.uniform(0.4, 1.0)
            body += (random_colour(rng, self.grey) - body) * rim
        return body

    def draw(self, centre_xy: NDArray[np.float64], alpha: Alpha, base: Colour | None, plain: bool = False) -> None:
        """Draw one object over everything drawn so far."""
        if not plain and self.rng.random() < 0.25:
            self._shadow(centre_xy, alpha)
        slices = _slices(centre_xy, alpha.shape[0], self.side)
        if slices is None:
            return
        on_canvas, on_patch = slices
        inside = alpha[on_patch]
        body = self._body(alpha, base) if not plain else self._nucleus(alpha, base)
        opacity = 1.0 if self.rng.random() < 0.9 else self.rng.uniform(0.6, 1.0)
        _blend(self.image[on_canvas], body[on_patch], inside * np.float32(opacity))
        solid = inside > 0.5
        self.drawn_px.append(int(solid.sum()))
        self.labels[on_canvas][solid] = len(self.drawn_px)

    def _nucleus(self, alpha: Alpha, base: Colour | None) -> Image:
        assert base is not None
        body = np.broadcast_to(base, (*alpha.shape, 3)).astype(np.float32)
        grain = smooth_noise(self.rng, alpha.shape, int(self.rng.integers(3, 8)))
        body = body * (1 + self.rng.uniform(0, 0.35) * (grain - 0.5))[..., None]
        if self.rng.random() < 0.5:
            body *= (1 - self.rng.uniform(0, 0.35) * _edge(alpha, 1))[..., None]
        return body.astype(np.float32)

    def visible(self) -> NDArray[np.int32]:
        """Return the labels of the objects that are still visible, renumbered from 1."""
        left_px = np.bincount(self.labels.ravel(), minlength=len(self.drawn_px) + 1)
        drawn_px = np.array([1, *self.drawn_px])
        keep = (left_px >= MIN_VISIBLE_PX) & (left_px >= MIN_VISIBLE_SHARE * drawn_px)
        keep[0] = False
        renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
        return renumber[self.labels]


def _things(painter: _Painter) -> None:
    """Draw objects of every outline and texture, few or many, alike or not."""
    rng, side = painter.rng, painter.side
    if rng.random() < 0.35:
        painter.clutter()
    typical_px = np.exp(rng.uniform(np.log(4.5), np.log(50)))
    spread = rng.uniform(0.1, 0.6)
    coverage = rng.uniform(0.15, 1.1)
    count = int(np.clip(coverage * side**2 / (2.2 * typical_px**2), 2, 16 * (side / 128) ** 2))
    theme = random_colour(rng, painter.grey) if rng.random() < 0.3 else None
    hidden = rng.random() < 0.25  # colours close to the background's, or the same in another texture
    faintness = rng.uniform(6, 30)
    for _ in range(count):
        radius = float(np.clip(typical_px * np.exp(rng.normal(0, spread)), 3, 0.45 * side))
        base = None
        if hidden:
            base = painter.base if rng.random() < 0.4 else painter._near(painter.base, faintness)
        elif theme is not None:
            base = painter._near(theme, 15)
        painter.draw(rng.uniform(0, side, 2), _crop(draw_outline(rng, radius)), base)


def _nuclei(painter: _Painter) -> None:
    """Draw many round objects of one kind, in clumps that touch, bright on dark or dark on bright."""
    rng, side = painter.rng, painter.side
    ground = random_colour(rng, painter.grey)
    contrast = rng.uniform(0.15, 1.0)
    if rng.random() < 0.6:
        ground = ground * np.float32(rng.uniform(0.02, 0.5))
        stain = ground + (np.float32(255) - ground) * np.float32(contrast * rng.uniform(0.2, 1.0))
    else:
        ground = 255 - (255 - ground) * np.float32(rng.uniform(0.02, 0.5))
        stain = ground * np.float32(1 - contrast * 0.9)
    if not painter.grey:
        stain = painter._near(stain, 20)
    haze = smooth_noise(rng, (side, side), int(rng.integers(2, 10)))[..., None]
    painter.image[:] = ground * (1 + rng.uniform(0, 0.3) * (haze - 0.5))
    typical_px = np.exp(rng.uniform(np.log(3.5), np.log(20)))
    count = int(np.clip(rng.uniform(0.1, 0.8) * side**2 / (3.1 * typical_px**2), 3, 36 * (side / 128) ** 2))
    clumping = rng.uniform(0, 0.8)
    centres: list[NDArray[np.float64]] = []
    for _ in range(count):
        radius = float(np.clip(typical_px * np.exp(rng.normal(0, 0.25)), 2.8, 40))
        centre = rng.uniform(0, side, 2)
        if centres and rng.random() < clumping:
            angle = rng.uniform(0, 2 * np.pi)
            step = 2 * typical_px * rng.uniform(0.75, 1.1)
            centre = centres[rng.integers(len(centres))] + step * np.array([np.cos(angle), np.sin(angle)])
        centres.append(centre)
        base = np.clip(ground + (stain - ground) * np.float32(rng.uniform(0.45, 1.1)), 0, 255)
        painter.draw(centre, _crop(draw_outline(rng, radius, round_only=True)), base.astype(np.float32), plain=True)


def _camera(rng: Generator, image: Image) -> NDArray[np.uint8]:
    """Apply light, blur, noise and compression to the whole image."""
    side = image.shape[0]
    if rng.random() < 0.3:
        light = smooth_noise(rng, (side, side), 2)
        image *= (1 + rng.uniform(0.1, 0.6) * (light - 0.5))[..., None]
    if rng.random() < 0.45:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3)), np.float32)
    if rng.random() < 0.25:
        image = 255 * np.power(np.clip(image / 255, 0, 1), np.float32(np.exp(rng.normal(0, 0.35))))
    if rng.random() < 0.25:
        image = (image - 128) * np.float32(rng.uniform(0.4, 1.1)) + np.float32(128 + rng.normal(0, 20))
    if rng.random() < 0.5:
        noise = rng.standard_normal((side, side, 1 if rng.random() < 0.5 else 3), dtype=np.float32)
        image = image + noise * np.float32(rng.uniform(1, 18))
    pixels: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, packed = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
        unpacked = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        assert unpacked is not None
        pixels = unpacked.astype(np.uint8)
    return pixels


def make_scene(seed: int, side: int) -> TrainingScene:
    """Draw the scene of a seed and a side: always the same, with at least one visible object."""
    rng = np.random.default_rng([SEED_DOMAIN, seed, side])
    while True:
        style = rng.random()
        grey = style < 0.15 or style > 0.85
        painter = _Painter(rng, side, grey)
        draw_objects = _nuclei if style < 0.22 else _things
        draw_objects(painter)
        labels = painter.visible()
        if labels.any():
            image_rgb = _camera(rng, painter.image)
            if grey:
                image_rgb = np.repeat(image_rgb[..., :1], 3, axis=2)
            return TrainingScene(image_rgb, labels)
