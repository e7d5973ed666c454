"""Choose the labelled images that the teacher does not train on, so that the gate can be calibrated on them."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash


def held_out_ids(image_ids: Sequence[int], share: float) -> frozenset[int]:
    """Return about a share, 0 to 1, of images, by their ids alone: a larger share holds out the same images and more.

    Of two images or more, at least one is held out where the share is not 0, and at least one is not. A single
    image is not held out.
    """
    if share <= 0 or len(image_ids) < 2:
        return frozenset()
    count = min(max(1, round(len(image_ids) * share)), len(image_ids) - 1)
    return frozenset(sorted(image_ids, key=_draw)[:count])


def _draw(image_id: int) -> tuple[str, int]:
    # A hash and not a generator: the draw of an image does not depend on the other images.
    return xxhash.xxh3_128_hexdigest(f"held out {image_id}".encode()), image_id
