"""The small SAM that comes with this project: its scenes, its training, its weights, how good it is."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_FILE = Path(__file__).parent / "sam_tiny.pt"
"""State dict of half-precision tensors for `pipeline.sam.tiny.model.build_sam_tiny`."""
