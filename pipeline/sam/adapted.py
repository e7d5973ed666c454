"""A folder with a SAM that was fitted to labels: its weights, and a card that says which SAM it is. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from pydantic import ValidationError

from pipeline.errors import S4MError
from pipeline.sam.files import ADAPTED_WEIGHTS, HF
from pipeline.sam.hf.folder import check_folder
from pipeline.sam.settings import SamSettings

CARD: Final = "adaptation.json"
"""Name of the card."""


class AdaptedSam(msgspec.Struct, frozen=True):
    """What a card says about the SAM beside it. model, input_side: as in `SamSettings`, of the SAM that was fitted.

    chosen: whose weights it has: `adapted`, `half-way` or `shipped`, the last being those that it had before.
    """

    model: str
    chosen: str
    input_side: int | None = None

    @property
    def is_changed(self) -> bool:
        """Return whether its weights are others than before."""
        return self.chosen != "shipped"

    @property
    def is_of_transformers(self) -> bool:
        """Return whether it lies beside its card as a folder of Hugging Face transformers."""
        return self.model.startswith(HF)

    def place(self, folder: Path) -> dict[str, str | Path]:
        """Return the settings of a SAM that say where it is. folder: that of its card."""
        if self.is_of_transformers:
            return {"model": f"{HF}{folder}"}
        return {"model": self.model, "checkpoint": folder / ADAPTED_WEIGHTS}


def is_adapted_sam(folder: Path) -> bool:
    """Return whether there is a card in a folder."""
    return (folder / CARD).is_file()


def read_adapted_sam(folder: Path) -> AdaptedSam:
    """Read the card of a folder. Raise S4MError for a folder without a usable card, or without weights."""
    path, remedy = folder / CARD, "`s4m sam adapt` makes such a folder"
    try:
        card = msgspec.json.decode(path.read_bytes(), type=AdaptedSam)
    except OSError as error:
        raise S4MError(
            f"{folder}: no SAM that was fitted to labels: {path.name}: {error.strerror}; {remedy}"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise S4MError(f"{path}: not the card of a SAM that was fitted to labels ({error}); {remedy}") from error
    if card.is_of_transformers:
        try:
            check_folder(folder, f"{HF}{folder}")
        except S4MError as error:
            raise S4MError(f"{path}: names a SAM that cannot be used: {card.model} ({error}); {remedy}") from error
    elif not (folder / ADAPTED_WEIGHTS).is_file():
        raise S4MError(f"{folder}: has no {ADAPTED_WEIGHTS}, which belongs to its card; {remedy}")
    return card


def settings_of(folder: Path) -> SamSettings:
    """Return the settings that name the SAM of a folder."""
    card = read_adapted_sam(folder)
    try:
        return SamSettings.model_validate({**card.place(folder), "input_side": card.input_side})
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise S4MError(f"{folder / CARD}: names a SAM that cannot be used: {card.model} ({reason})") from error


def with_adapted(sam: SamSettings, folder: Path) -> SamSettings:
    """Return the settings of a SAM with the weights of a folder; unchanged if these are the same weights."""
    card = read_adapted_sam(folder)
    return sam.model_copy(update=card.place(folder)) if card.is_changed else sam
