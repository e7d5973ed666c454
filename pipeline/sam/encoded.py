"""An image that SAM has encoded before: what there is to keep of it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ENCODED_IMAGES: Final = "encoded images"
"""In reports of shards and summaries of stages: how often SAM's encoder ran, for whole images and enlarged crops."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as SAM's decoder needs it: features C x h x w float16, and the image's height and width in pixels."""

    features: NDArray[np.float16]
    image_hw: tuple[int, int]


ImageForSam = NDArray[np.uint8] | EncodedImage
"""RGB pixels, uint8 (height, width, 3), that are still to be encoded, or what that gave before."""
