"""Name the files that make each SAM. Imports nothing slow, as every command does this."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import S4MError
from pipeline.files.identity import hash_text
from pipeline.sam.tiny import WEIGHTS_FILE

HF: Final = "hf:"
"""What models of Hugging Face transformers begin with: then comes a folder, or a name as `facebook/sam2.1-hiera-tiny`.
"""

CONFIG_FILES: Final = ("config.json", "preprocessor_config.json", "processor_config.json")
"""What a folder of transformers has beside its weights: the model, and how images are prepared for it."""

ADAPTED_WEIGHTS: Final = "sam.safetensors"
"""The weights in a folder with a SAM that was fitted to labels."""

_HF_NAME: Final = re.compile(r"[a-zA-Z0-9][\w.-]*/[a-zA-Z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint as segment_anything's authors publish it."""

    name: str
    bytes: int
    sha256: str


PUBLISHED: Final = {
    "vit_b": PublishedFile(
        "sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": PublishedFile(
        "sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": PublishedFile(
        "sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


MODELS: Final = ("sam_tiny", *PUBLISHED)
"""The models of segment_anything."""


def require_known(model: str) -> None:
    """Raise S4MError unless a name is that of one of segment_anything's models."""
    if model not in MODELS:
        raise S4MError(f"{model}: no such SAM; there are {', '.join(MODELS)}")


def weights_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of published checkpoints: S4M_WEIGHTS, else `weights/`."""
    return Path(environment.get("S4M_WEIGHTS") or "weights").expanduser()


def hf_name(model: str) -> str | None:
    """Return the name on Hugging Face's hub that a model may have, as `facebook/sam2.1-hiera-tiny`; else None."""
    text = model.removeprefix(HF)
    return text if model.startswith(HF) and _HF_NAME.fullmatch(text) else None


def hf_folder(model: str) -> Path | None:
    """Return the folder of a model of transformers, which may be missing; None for segment_anything's models.

    A name means the folder that `s4m weights get` fills, unless there is a folder of that name here.
    """
    if not model.startswith(HF):
        return None
    here, name = Path(model.removeprefix(HF)).expanduser(), hf_name(model)
    return here if name is None or here.is_dir() else hub_folder(name)


def hub_folder(name: str) -> Path:
    """Return the folder into which a model of Hugging Face's hub is downloaded."""
    return weights_folder() / "hf" / name


def kind_of(model: str) -> str:
    """Return what a model's name says about its results beside its files: nothing for models of transformers."""
    return HF.removesuffix(":") if model.startswith(HF) else model


def sam_files(model: str, checkpoint: Path | None = None) -> tuple[Path, ...]:
    """Return the files that make a model: its weights, with their configs if it is one of transformers."""
    folder = hf_folder(model)
    if folder is None:
        return (checkpoint_path(model, checkpoint),)
    configs = [folder / name for name in CONFIG_FILES]
    weights = sorted((*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")))
    return (configs[0], *(path for path in configs[1:] if path.is_file()), *weights)


def sam_digest(
    model: str,
    checkpoint: Path | None,
    digest_of: Callable[[Path], str],
    digest_of_text: Callable[[str], str] = hash_text,
) -> str:
    """Return a digest of the content of a model's files. digest_of, digest_of_text: of one file, of their list."""
    files = sam_files(model, checkpoint)
    if len(files) == 1:
        return digest_of(files[0])
    return digest_of_text("\n".join(f"{path.name}\t{digest_of(path)}" for path in files))


def checkpoint_path(model: str, checkpoint: Path | None = None) -> Path:
    """Return the file of the weights of one of segment_anything's models, which may be missing.

    checkpoint: a file, or a folder with a SAM that was fitted to labels.
    """
    if checkpoint is not None:
        return checkpoint / ADAPTED_WEIGHTS if checkpoint.is_dir() else checkpoint
    return WEIGHTS_FILE if model == "sam_tiny" else weights_folder() / PUBLISHED[model].name
