"""The outlines of a mask as polygons along the edges of its pixels, exact or simplified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from pipeline.masks.windows import BoolMask

PointXy = tuple[int, int]
Ring = list[PointXy]
"""Corners of a closed line that neither crosses nor touches itself; the first is not repeated at the end."""

_FEWEST_POINTS = 3


def outline_xy(mask: BoolMask) -> list[PointXy]:
    """Return the corners of the outline along the edges of the pixels, in pixels; empty for an empty mask.

    Lines there and back, which enclose nothing, join parts and holes to the first loop: filled by any rule, and by
    pycocotools, the polygon is the mask again, pixel for pixel.
    """
    loops = _loops(mask)
    if not loops:
        return []
    joined = list(loops[0])
    for loop in loops[1:]:
        joined += [joined[0], *loop, loop[0]]
    return joined


@dataclass(frozen=True)
class Outline:
    """The outline of a part of a mask whose pixels are connected by their sides, in pixels.

    The exterior runs clockwise on the screen, holes against it. A hole may touch the exterior or another hole in a
    corner.
    """

    exterior: Ring
    holes: tuple[Ring, ...] = ()

    def simplified(self, tolerance_px: float) -> Outline:
        """Return the outline with fewer points, none of which moves; lines pass left out ones within the tolerance.

        A hole that would have fewer than 3 points is left out; an exterior stays as it is then.
        """
        exterior = _simplified(self.exterior, tolerance_px)
        holes = [_simplified(hole, tolerance_px) for hole in self.holes]
        return Outline(
            exterior if len(exterior) >= _FEWEST_POINTS else self.exterior,
            tuple(hole for hole in holes if len(hole) >= _FEWEST_POINTS),
        )

    def moved(self, dx: int, dy: int) -> Outline:
        """Return the outline `dx` columns and `dy` rows further."""
        exterior, *holes = ([(x + dx, y + dy) for x, y in ring] for ring in (self.exterior, *self.holes))
        return Outline(exterior, tuple(holes))

    def joined(self) -> Ring:
        """Return the exterior and the holes as one polygon, joined as by `joined_xy`."""
        return joined_xy([self.exterior, *self.holes])


def part_outlines(mask: BoolMask) -> list[Outline]:
    """Return the outline of every part of a mask (height, width), in reading order."""
    if not mask.any():
        return []
    _, part_of_pixel = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    exteriors: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for loop in _loops(mask):
        for ring in _rings(loop):
            part = int(part_of_pixel[_pixel_inside(ring)])
            if _area(ring) > 0:
                exteriors[part] = ring
            else:
                holes.setdefault(part, []).append(ring)
    return [Outline(exteriors[part], tuple(holes.get(part, ()))) for part in sorted(exteriors)]


def joined_xy(rings: Sequence[Ring]) -> Ring:
    """Return rings as one polygon: a line there and back, which encloses nothing, joins each to the nearest before."""
    joined = list(rings[0])
    for ring in rings[1:]:
        distances = np.linalg.norm(np.array(joined)[:, None] - np.array(ring)[None], axis=2)
        at, start = divmod(int(distances.argmin()), len(ring))
        joined[at + 1 : at + 1] = [*ring[start:], *ring[: start + 1], joined[at]]
    return joined


def _simplified(ring: Ring, tolerance_px: float) -> Ring:
    if not tolerance_px:
        return ring
    points = cv2.approxPolyDP(np.array(ring, dtype=np.int32), tolerance_px, closed=True).reshape(-1, 2)
    return [(int(x), int(y)) for x, y in points]


def _rings(loop: Ring) -> list[Ring]:
    """Divide a closed line where it comes to a corner again."""
    rings: list[Ring] = []
    open_points: Ring = []
    index_of: dict[PointXy, int] = {}
    for point in loop:
        if point in index_of:
            start = index_of[point]
            rings.append(open_points[start:])
            for left in open_points[start + 1 :]:
                del index_of[left]
            del open_points[start + 1 :]
        else:
            index_of[point] = len(open_points)
            open_points.append(point)
    return [corners for ring in (*rings, open_points) if (corners := _corners(ring))]


def _pixel_inside(ring: Ring) -> tuple[int, int]:
    """Return row and column of the pixel of the mask beside the first edge: right of it."""
    (x0, y0), (x1, y1) = ring[0], ring[1]
    # Rightwards the pixel is below the edge, leftwards above it; downwards left of it, upwards right of it.
    row = y0 if x1 > x0 or y1 > y0 else y0 - 1
    column = x0 if x1 > x0 or y1 < y0 else x0 - 1
    return row, column


def _area(ring: Ring) -> float:
    """Return the area inside a ring; negative for a hole."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*ring, ring[0]])) / 2


def _loops(mask: BoolMask) -> list[list[PointXy]]:
    """Return every closed line between inside and outside, with the inside on its right.

    Where two pixels touch in a corner alone, the line stays at its own pixel.
    """
    following = _edges(mask)
    loops = []
    while following:
        start = next(iter(following))
        second = _taken(following, start, following[start][-1])
        loop, before, point = [start], start, second
        while True:
            turn = _right_turn(before, point)
            if point == start and (start not in following or turn == second):
                break
            loop.append(point)
            ends = following[point]
            before, point = point, _taken(following, point, turn if turn in ends else ends[-1])
        loops.append(_corners(loop))
    return loops


def _taken(following: dict[PointXy, list[PointXy]], start: PointXy, end: PointXy) -> PointXy:
    """Remove the edge from one corner to the next, which is returned."""
    following[start].remove(end)
    if not following[start]:
        del following[start]
    return end


def _right_turn(before: PointXy, point: PointXy) -> PointXy:
    """Return the corner to the right of a step of one pixel."""
    (x0, y0), (x1, y1) = before, point
    return x1 - (y1 - y0), y1 + (x1 - x0)


def _edges(mask: BoolMask) -> dict[PointXy, list[PointXy]]:
    """Return for every corner on the border the one or two corners that its edges lead to."""
    padded = np.pad(mask, 1).astype(np.int8)
    across_rows = np.diff(padded[:, 1:-1], axis=0)
    across_columns = np.diff(padded[1:-1, :], axis=1)
    following: dict[PointXy, list[PointXy]] = {}
    for steps, sign, start, end in (
        (across_rows, 1, (0, 0), (1, 0)),  # along the top of a pixel, rightwards
        (across_rows, -1, (1, 0), (0, 0)),
        (across_columns, 1, (0, 1), (0, 0)),  # along its left side, upwards
        (across_columns, -1, (0, 0), (0, 1)),
    ):
        rows, columns = np.nonzero(steps == sign)
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    return following


def _corners(loop: list[PointXy]) -> list[PointXy]:
    """Return the points at which a closed line turns."""
    steps = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in pairwise([loop[-1], *loop, loop[0]])]
    return [point for point, (before, after) in zip(loop, pairwise(steps), strict=True) if before != after]
