"""Build SAM models, with weights from files that are not trusted, or with random ones."""

from __future__ import annotations

import errno
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor, nn

from pipeline.errors import S4MError, some_of
from pipeline.files.writing import open_atomically
from pipeline.sam.files import MODELS, hf_folder, require_known
from pipeline.sam.tiny.model import OWN_SIDE, TinySam, build_sam_tiny
from pipeline.sam.weights import identify_weights

SAFETENSORS = ".safetensors"
"""Ending of files that hold tensors and cannot hold programs."""

DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch.load raises where bytes of a file are changed."""

WRAPPERS: Final = ("state_dict", "model_state_dict", "model_state", "model")
"""Names under which MMEngine, PyTorch's examples, micro-sam and others save a model beside the rest of a training."""

_KNOWN_WEIGHT: Final = "mask_decoder.iou_token.weight"
"""A tensor that every SAM has: what stands before its name stands before all names."""


def build_sam(
    model: str,
    checkpoint: Path | None = None,
    *,
    input_side: int | None = None,
    random_weights_seed: int | None = None,
) -> Sam:
    """Return a SAM in evaluation mode on the CPU, with its own weights, those of a checkpoint, or random ones.

    The tensors stay in the file, mapped into memory: processes that load the same file share them.
    input_side: side that images are resized to, in pixels; None is the model's own, and only sam_tiny has others.
    """
    require_known(model)
    sam = _loaded(model, checkpoint) if random_weights_seed is None else _random(model, random_weights_seed)
    _set_input_side(sam, model, input_side)
    return sam


def embedding_shape(model: str, input_side: int | None = None) -> tuple[int, int, int]:
    """Return the channels, height and width of a model's embedding of one image, as it is kept."""
    folder = hf_folder(model)
    if folder is not None:
        from pipeline.sam.hf.loading import kept_shape

        return kept_shape(folder)
    require_known(model)
    skeleton = _skeleton(model)
    _set_input_side(skeleton, model, input_side)
    height, width = skeleton.prompt_encoder.image_embedding_size
    return skeleton.prompt_encoder.embed_dim, height, width


def _set_input_side(sam: Sam, model: str, input_side: int | None) -> None:
    if isinstance(sam, TinySam):
        sam.resize(input_side or OWN_SIDE)
    elif input_side not in (None, sam.image_encoder.img_size):
        raise S4MError(f"{model} takes images of {sam.image_encoder.img_size} pixels only: leave sam.input_side out")


def _loaded(model: str, checkpoint: Path | None) -> Sam:
    path = identify_weights(model, checkpoint).path
    state = _without_prefix(read_state(path))
    skeleton = _skeleton(model)
    _check_state(state, skeleton, model, path)
    if model == "sam_tiny":
        return build_sam_tiny(state=state)
    skeleton.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return skeleton.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; S4MError for a file that holds anything else.

    No code in the file is run: `weights_only` refuses it.
    """
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    try:
        zipfile.ZipFile(path).close()
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except zipfile.BadZipFile as error:
        raise S4MError(f"{path}: truncated, or not a file of torch.save (a zip archive): fetch it again") from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):  # EINVAL: places before its beginning
            raise S4MError(f"{path}: cannot be read: {error.strerror}") from error
        # Only this part of torch's message: the rest says how to run the code nevertheless.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and asked is not None:
            raise S4MError(
                f"{path}: holds more than tensors ({asked[1]}), which is refused, as loading it could run programs: "
                "save the model's state_dict alone"
            ) from error
        raise S4MError(f"{path}: damaged, or not a checkpoint ({type(error).__name__}): fetch it again") from error
    state = _unwrapped(state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        held = sorted(map(str, state)) if isinstance(state, Mapping) else [type(state).__name__]
        raise S4MError(
            f"{path}: expected a state_dict (names to tensors), found {some_of(held)}: "
            "save the model's state_dict alone"
        )
    return dict(state)


def _unwrapped(value: object) -> object:
    """Return the state_dict in what a training saved: under one of the usual names, if its values are tensors."""
    if isinstance(value, Mapping):
        for name in WRAPPERS:
            inner = value.get(name)
            if isinstance(inner, Mapping) and inner and all(isinstance(each, Tensor) for each in inner.values()):
                return inner
    return value


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a SAM's tensors by their own names: trainings of a larger module write its name before all of them."""
    named = next((name for name in state if name.endswith(_KNOWN_WEIGHT)), "")
    prefix = named.removesuffix(_KNOWN_WEIGHT)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, *DAMAGE) as error:
        raise S4MError(f"{path}: damaged, or not a file of safetensors ({error}): fetch or make it again") from error
    return tensors


def write_state(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name as a file of safetensors, whole or not at all. metadata: texts in its header."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, metadata)
    with open_atomically(path) as file:
        file.write(content)


def _random(model: str, seed: int) -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam: Sam = build_sam_tiny() if model == "sam_tiny" else sam_model_registry[model]()
        for name, tensor in sam.image_encoder.named_parameters():
            # segment_anything initialises positions with zero, which would leave them without effect.
            if name == "pos_embed" or ".rel_pos_" in name:
                nn.init.normal_(tensor, std=0.1)
    return sam.eval()


def _skeleton(model: str) -> Sam:
    """Return the model without memory for its tensors."""
    with torch.device("meta"):
        sam: Sam = build_sam_tiny() if model == "sam_tiny" else sam_model_registry[model]()
    return sam


def _check_state(state: Mapping[str, Tensor], skeleton: Sam, model: str, path: Path) -> None:
    expected = skeleton.state_dict()
    found_shapes = _shapes(state)
    if found_shapes != _shapes(expected):
        for other in MODELS:
            if other != model and found_shapes == _shapes(_skeleton(other).state_dict()):
                raise S4MError(f"{path}: these are weights of {other}, not of {model}: set sam.model to {other}")
        raise S4MError(f"{path}: does not fit {model}: {'; '.join(_differences(state, expected))}")
    for name, tensor in state.items():
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise S4MError(f"{path}: does not fit {model}: {name} is {tensor.dtype}, expected {expected[name].dtype}")


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    groups = (("missing: ", missing), ("unknown: ", unknown), ("", reshaped))
    return [f"{kind}{some_of(names)}" for kind, names in groups if names]
