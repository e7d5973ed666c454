"""An image that SAM has encoded before, as it is kept. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ENCODED_IMAGES: Final = "encoded images"
"""In reports of shards and summaries of stages: how often SAM's encoder ran, for whole images and enlarged crops."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as SAM's decoder needs it: all its maps in the form of `ImageEmbeddings.to_numpy`, C x h x w float16.

    image_hw: the image's height and width in pixels.
    """

    features: NDArray[np.float16]
    image_hw: tuple[int, int]


ImageForSam = NDArray[np.uint8] | EncodedImage
"""RGB pixels, uint8 (height, width, 3), that are still to be encoded, or the result of encoding them before."""


def image_hw_of(image: ImageForSam) -> tuple[int, int]:
    """Return the height and width of an image in pixels."""
    return image.image_hw if isinstance(image, EncodedImage) else (image.shape[0], image.shape[1])
