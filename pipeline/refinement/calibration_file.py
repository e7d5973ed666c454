"""A fitted gate as a JSON file: what it is, and what was known of it when it was fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from pipeline.errors import StoreError
from pipeline.files.writing import open_atomically
from pipeline.refinement.calibrate import CalibratedGate

CALIBRATION: Final = "calibration.json"
"""Name of the file in the result of `refine`, where `refine.gate` is calibrated."""


def write_calibration(path: Path, calibrated: CalibratedGate) -> None:
    """Write a fitted gate, whole or not at all."""
    with open_atomically(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(calibrated), indent=1) + b"\n")


def read_calibration(path: Path) -> CalibratedGate:
    """Read a fitted gate; StoreError where the file does not hold one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CalibratedGate)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a fitted gate that can be read ({error}): delete it to fit it again") from error
