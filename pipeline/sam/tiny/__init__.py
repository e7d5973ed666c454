"""The small SAM shipped with the product: its scenes, its training, its weights and their measures."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_FILE = Path(__file__).parent / "sam_tiny.pt"
"""State dict of half-precision tensors for `pipeline.sam.tiny.model.build_sam_tiny`."""
