"""The exact outline of a mask, as one polygon: for tools that know a region as a single polygon."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pipeline.masks.windows import BoolMask

PointXy = tuple[int, int]


def outline_xy(mask: BoolMask) -> list[PointXy]:
    """Return the corners of the outline along the edges of the pixels, in pixels; empty where the mask is.

    Parts and holes are joined to the first loop by bridges there and back, which enclose nothing: filled by
    any rule, and by pycocotools, the polygon gives back the mask, pixel for pixel.
    """
    loops = _loops(mask)
    if not loops:
        return []
    first = loops[0]
    joined = list(first)
    for loop in loops[1:]:
        joined += [first[0], *loop, loop[0]]
    return joined


def _loops(mask: BoolMask) -> list[list[PointXy]]:
    """Return every closed line between inside and outside, the inside on its right."""
    following = _edges(mask)
    loops = []
    while following:
        start = next(iter(following))
        loop = [start]
        while True:
            ends = following[loop[-1]]
            point = ends.pop()
            if not ends:
                del following[loop[-1]]
            if point == start:
                break
            loop.append(point)
        loops.append(_corners(loop))
    return loops


def _edges(mask: BoolMask) -> dict[PointXy, list[PointXy]]:
    """Return for every corner of a pixel on the border the corners that edges lead to from there: one or two."""
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
