"""Load a SAM of transformers from a folder: safetensors alone, without a network, executing nothing from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.errors import S4MError, StageError, some_of
from pipeline.sam.frame import InputFrame
from pipeline.sam.hf.extra import require_transformers
from pipeline.sam.hf.families import Family, FinerMap, family_of
from pipeline.sam.hf.folder import check_folder

LOWRES_CELL: Final = 4
"""Low-resolution pixels along a side of a cell of the image embedding, in all these decoders: they double it twice."""

_UNUSABLE: Final = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError)
"""What transformers raises for configs and weights that do not fit together, beside errors of its own libraries."""


@dataclass(frozen=True)
class LoadedSam:
    """A model in evaluation mode on the CPU, and how images are prepared for it.

    processor: turns images into pixel values. family: what its decoder needs of an image. channels: of the image
    embedding. finer: the further maps.
    """

    model: Any
    processor: Any
    frame: InputFrame
    family: Family
    channels: int
    finer: tuple[FinerMap, ...]

    @classmethod
    def of(cls, model: Any, processor: Any) -> LoadedSam:
        """Return a model with its image processor; raise S4MError where they do not fit together."""
        family = family_of(model)
        family.prepare(model)
        channels, finer = model.prompt_encoder.hidden_size, family.finer_maps(model)
        return cls(model.eval().requires_grad_(False), processor, frame_of(model, processor), family, channels, finer)


def load_hf_sam(folder: Path) -> LoadedSam:
    """Load the model of a folder; raise S4MError for one that cannot be used."""
    check_folder(folder, f"hf:{folder}")
    transformers = require_transformers()
    with _offline(transformers), _explained(folder):
        model, report = transformers.AutoModelForMaskGeneration.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # _check_report names them
            output_loading_info=True,
        )
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    _check_report(folder, report)
    with _explained(folder):
        try:
            return LoadedSam.of(model, processor)
        except S4MError as error:
            raise S4MError(f"{folder}: {error}") from error


def kept_shape(folder: Path) -> tuple[int, int, int]:
    """Return the channels, height and width of an image's maps in the form that is kept."""
    check_folder(folder, f"hf:{folder}")
    transformers = require_transformers()
    with _offline(transformers), _explained(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = transformers.AutoModelForMaskGeneration.from_config(config)
    prompts, finer = model.prompt_encoder, family_of(model).finer_maps(model)
    return prompts.hidden_size + sum(each.folded_channels for each in finer), *prompts.image_embedding_size


def frame_of(model: Any, processor: Any) -> InputFrame:
    """Return how an image processor resizes images; raise S4MError where that is not as the model needs it."""
    side: int = model.prompt_encoder.input_image_size
    size, padded = processor.size, getattr(processor, "pad_size", None)
    keeps_aspect = size.longest_edge is not None
    sides = {size.longest_edge, padded.height, padded.width} if keeps_aspect and padded else {size.height, size.width}
    if not processor.do_resize or (keeps_aspect and not processor.do_pad) or sides != {side}:
        raise S4MError(
            f"preprocessor_config.json must resize images to the {side} x {side} pixels of the model, has size "
            f"{_plain(size)}, pad_size {_plain(padded)}: copy it from the model that yours comes from"
        )
    grid_side: int = model.prompt_encoder.image_embedding_size[0]
    return InputFrame(side, LOWRES_CELL * grid_side, keeps_aspect)


def _plain(size: Any) -> dict[str, int]:
    return {key: value for key, value in dict(size or {}).items() if value is not None}


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    """Raise S4MError where a tensor of the model was not loaded: transformers has filled it with random numbers."""
    reshaped = [f"{name} is {tuple(found)}, expected {tuple(own)}" for name, found, own in report["mismatched_keys"]]
    groups = (
        ("missing: ", sorted(report["missing_keys"])),
        ("unknown: ", sorted(report["unexpected_keys"])),
        ("", sorted(reshaped)),
    )
    if groups[0][1] or groups[2][1]:
        told = "; ".join(f"{kind}{some_of(names)}" for kind, names in groups if names)
        raise S4MError(f"{folder}: the weights do not fit config.json: {told}")


@contextmanager
def _offline(transformers: Any) -> Iterator[None]:
    """Let transformers load without a network, progress bars and reports; S4MErrors say what is wrong."""
    from huggingface_hub import constants

    logging = transformers.utils.logging
    verbosity, shows_bars, is_offline = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        constants.HF_HUB_OFFLINE,
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = is_offline
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what transformers and its libraries raise for a folder into an S4MError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:
        raise StageError(f"{folder}: needs a package that is not installed ({_first_line(error)})") from error
    except (*_UNUSABLE, SafetensorError, StrictDataclassError) as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise S4MError(f"{folder}: cannot be loaded ({reason}): fetch it again") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
