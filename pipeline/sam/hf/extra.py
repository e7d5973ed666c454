"""The extra that models of Hugging Face need."""

from __future__ import annotations

from typing import Any

from pipeline.errors import StageError


def require_transformers() -> Any:
    """Return the module transformers; raise StageError with what to install where it is missing."""
    try:
        import transformers
    except ImportError as error:
        raise StageError(
            "models of Hugging Face (hf:) need transformers, which is not installed here: `make setup EXTRAS=hf`, or "
            "pip install 's4m[hf]'"
        ) from error
    return transformers
