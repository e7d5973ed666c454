"""Keep what is dear to make while there is room for it: images, and what SAM's encoder made of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from typing import Final, Generic, TypeVar

import xxhash

from pipeline.sam.encoded import EncodedImage, ImageForSam
from pipeline.sam.interface import Engine, ImageEmbeddings

Kept = TypeVar("Kept")

KEPT_BYTES: Final = 1 << 30
"""Most bytes of images, and most bytes of embeddings, that stay in memory."""


class KeptInMemory(Generic[Kept]):
    """What was made for a key, while there is room for it: the least recently used is forgotten first."""

    def __init__(self, size_bytes: Callable[[Kept], int], most_bytes: int = KEPT_BYTES) -> None:
        self._size_bytes, self._left = size_bytes, most_bytes
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return what was made for the key before, or make it now."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._kept[key] = make()
        self._left -= self._size_bytes(made)
        while self._left < 0 and len(self._kept) > 1:
            self._left += self._size_bytes(self._kept.popitem(last=False)[1])
        return made


class EncodedOnce:
    """An `Engine` whose encoder works once on an image, while there is room for the embedding."""

    def __init__(self, engine: Engine) -> None:
        self.frame, self.device, self.precision = engine.frame, engine.device, engine.precision
        self.decode, self.decoder_tokens = engine.decode, engine.decoder_tokens
        self._encode = engine.encode
        self._kept: KeptInMemory[ImageEmbeddings] = KeptInMemory(_size_bytes)

    def encode(self, images: Sequence[ImageForSam]) -> ImageEmbeddings:
        """Return the engine's embeddings of the one image."""
        (image,) = images
        if isinstance(image, EncodedImage):
            return self._encode(images)
        key = (xxhash.xxh3_128_digest(image.tobytes()), image.shape)
        return self._kept.get(key, lambda: self._encode(images))

    def with_decoder(self, engine: Engine) -> EncodedOnce:
        """Return an engine that decodes with another SAM what this one's encoder has made, or will make."""
        other = copy(self)
        other.decode, other.decoder_tokens = engine.decode, engine.decoder_tokens
        return other


def _size_bytes(embeddings: ImageEmbeddings) -> int:
    return sum(each.numel() * each.element_size() for each in (embeddings.features, *embeddings.finer))
