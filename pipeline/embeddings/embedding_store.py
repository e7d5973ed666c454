"""Reading kept embeddings, an image at a time."""

from __future__ import annotations

from pipeline.embeddings.embedding_columns import EMBEDDING_FORMAT, EmbeddingAttributes
from pipeline.sam.encoded import EncodedImage
from pipeline.tables.table_store import TableStore


class EmbeddingStore(TableStore[EmbeddingAttributes]):
    """A sealed store of embeddings."""

    table_format = EMBEDDING_FORMAT

    def encoded_image(self, image_id: int, image_hw: tuple[int, int]) -> EncodedImage | None:
        """Return an image of this height and width; None where the store has no features of it.

        StoreError where they do not match their checksum.
        """
        index = self.find(image_id)
        if index is None or not self._value("encoded", index):
            return None
        if (self._value("height", index), self._value("width", index)) != image_hw:
            return None
        return EncodedImage(self.values("features", index, index + 1)[0], image_hw)

    def _value(self, column: str, index: int) -> int:
        return int(self.values(column, index, index + 1)[0])
