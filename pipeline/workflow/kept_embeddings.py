"""What kept embeddings are named by."""

from __future__ import annotations

from pipeline.embeddings.embedding_columns import EMBEDDING_FORMAT, Shape
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import EMBEDDINGS


def fingerprint_of(images: str, weights: str, model: str, shape: Shape) -> Fingerprint:
    """What embeddings are named by. images, weights: digests of contents. The shape tells the side of the input."""
    return Fingerprint(
        stage=EMBEDDINGS,
        version=EMBEDDING_FORMAT.version,
        settings={"sam.model": model, "shape": list(shape)},
        inputs={"images": images, "sam.checkpoint": weights},
        upstream={},
    )
