"""The card of a SAM that was fitted to labels: what was tried on held-out images, and what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from pipeline.adaptation.guard import CANDIDATES, QualityResult, WhoseWeights, pooled_gain, verdict
from pipeline.errors import StoreError
from pipeline.files.writing import open_atomically
from pipeline.presentation import words
from pipeline.sam.adapted import CARD, AdaptedSam

FORMAT: Final = 1

Trained = Literal["all", "decoder"]


class Adaptation(AdaptedSam, frozen=True, kw_only=True):
    """The card of the result: what was tried and chosen.

    trained: which part of SAM. reason: for the choice. failures: reasons of images that cannot be read, by file name.
    results: of held-out images by the quality of the imitated teacher; empty if nothing was tried.
    """

    format: int
    trained: Trained
    reason: str
    images: int
    folds: int
    failures: dict[str, str]
    results: tuple[QualityResult, ...]

    @property
    def summary(self) -> dict[str, int | str]:
        """Return its figures for a completion record."""
        gain = pooled_gain(self.results, WhoseWeights(self.chosen)) if self.results else 0.0
        failed = {"failed": len(self.failures)} if self.failures else {}
        return {"images": self.images, **failed, "weights": self.chosen, "gain in mask IoU": words.signed(gain, 3)}


def write_adaptation(adaptation: Adaptation, folder: Path) -> None:
    """Write the card into a folder, whole or not at all."""
    with open_atomically(folder / CARD) as file:
        file.write(msgspec.json.format(msgspec.json.encode(adaptation), indent=1) + b"\n")


def read_adaptation(folder: Path) -> Adaptation:
    """Read the card of a result; StoreError for a file that is not a card."""
    path = folder / CARD
    try:
        return msgspec.json.decode(path.read_bytes(), type=Adaptation)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a card of a fitted SAM that can be read: {error}") from error


def report_lines(adaptation: Adaptation) -> list[str]:
    """Say what was tried on held-out images, and what was chosen."""
    tried = [verdict(adaptation.results, each) for each in CANDIDATES if adaptation.results]
    return [*tried, f"{adaptation.chosen} weights are used: {adaptation.reason}"]
