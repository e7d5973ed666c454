"""Reading kept embeddings, an image at a time, from as many processes as there are."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.embeddings.schema import FORMAT, FORMAT_VERSION, Shape, columns_of
from pipeline.errors import StoreError
from pipeline.labels.chunks import ColumnReader
from pipeline.sam.encoded import EncodedImage


class EmbeddingAttributes(msgspec.Struct, frozen=True):
    """What a store says of itself. encoded: how many of its images have features."""

    format: str
    version: int
    images: int
    encoded: int
    shape: Shape
    provenance: dict[str, Any]


class _GroupMetadata(msgspec.Struct):
    attributes: EmbeddingAttributes


class EmbeddingStore:
    """A sealed store of embeddings. It keeps no file open, and nothing but ids and sizes in memory."""

    def __init__(self, path: Path, attributes: EmbeddingAttributes) -> None:
        self.path = path
        self.attributes = attributes
        self._readers = {
            name: ColumnReader(path, column, attributes.images) for name, column in columns_of(attributes.shape).items()
        }

    @classmethod
    def open(cls, path: Path) -> EmbeddingStore:
        """Open the store at a path; StoreError where there is none that this program can read."""
        try:
            attributes = msgspec.json.decode((path / "zarr.json").read_bytes(), type=_GroupMetadata).attributes
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(f"{path}: there are no embeddings.") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: these are no embeddings, or they are damaged ({error}).") from error
        if (attributes.format, attributes.version) != (FORMAT, FORMAT_VERSION):
            raise StoreError(
                f"{path}: holds {attributes.format} {attributes.version}, this program reads {FORMAT} "
                f"{FORMAT_VERSION}. Remove the folder {path.parent} to make them again."
            )
        return cls(path, attributes)

    def encoded_image(self, image_id: int, image_hw: tuple[int, int]) -> EncodedImage | None:
        """An image of this height and width; None where the store has no features of it.

        StoreError where they do not match their checksum.
        """
        place = self._place_by_id.get(image_id)
        if place is None or not self._small["encoded"][place]:
            return None
        if (self._small["height"][place], self._small["width"][place]) != image_hw:
            return None
        reader = self._readers["features"]
        chunk, row = divmod(place, reader.layout.chunk_rows)
        return EncodedImage(reader.chunk(chunk)[row], image_hw)

    @cached_property
    def _small(self) -> dict[str, NDArray[Any]]:
        return {
            name: np.concatenate([reader.no_rows, *reader.chunks()])
            for name, reader in self._readers.items()
            if name != "features"
        }

    @cached_property
    def _place_by_id(self) -> dict[int, int]:
        return {image_id: place for place, image_id in enumerate(self._small["id"].tolist())}
