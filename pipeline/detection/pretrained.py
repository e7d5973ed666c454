"""Loads the weights that a config starts from (`init_cfg` of the type Pretrained), executing nothing.

MMEngine's own loaders fall back to unpickling a file that holds more than tensors, which can run any program. These
take their place when this module is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from mmengine.dist import barrier, get_rank
from mmengine.runner.checkpoint import CheckpointLoader, get_external_models, get_torchvision_models

from pipeline.errors import StageError
from pipeline.sam.build import DAMAGE

_NOT_READ: Final = ("mmcls://", "pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")


def load_file(name: str, map_location: Any = None) -> Any:
    """Load a weight file. Raise StageError if it holds more than tensors and numbers."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise StageError(f"{path}: no such weights: the config starts from them (init_cfg.checkpoint)")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except DAMAGE as error:
        raise _refused(str(path), error) from error


def load_url(url: str, map_location: Any = None) -> Any:
    """Load weights from the web, kept in torch's folder. Raise StageError if they hold more than tensors."""
    if get_rank() > 0:
        barrier()  # the first process fetches
    try:
        return torch.hub.load_state_dict_from_url(url, map_location=map_location, weights_only=True, progress=False)
    except DAMAGE as error:
        if isinstance(error, OSError):
            raise  # of the network
        raise _refused(url, error) from error
    finally:
        if get_rank() == 0:
            barrier()


def _load_torchvision(name: str, map_location: Any = None) -> Any:
    return load_url(_url(name, get_torchvision_models()), map_location)


def _load_openmmlab(name: str, map_location: Any = None) -> Any:
    return load_url(_url(name, get_external_models()), map_location)


def _url(name: str, urls: Mapping[str, str]) -> str:
    model = name.partition("://")[2]
    if not urls.get(model, "").startswith("https://"):
        raise StageError(f"{name}: no such published weights: set teacher.init_weights to a file")
    return urls[model]


def _refuse(name: str, map_location: Any = None) -> Any:
    del map_location
    raise StageError(f"{name}: weights of this kind are not read: set teacher.init_weights to a file")


def _refused(source: str, error: Exception) -> StageError:
    # Only this part of torch's message: the rest says how to run the code nevertheless.
    asked = re.search(r"GLOBAL (\S+)", str(error))
    holds = f"holds more than tensors ({asked[1]}), which is refused, as loading it could run programs" if asked else ""
    return StageError(
        f"{source}: {holds or 'damaged, or not weights'}: set teacher.init_weights to a file of tensors alone"
    )


for _prefixes, _loader in (
    ("", load_file),
    (("http://", "https://"), load_url),
    (("modelzoo://", "torchvision://"), _load_torchvision),
    (("open-mmlab://", "openmmlab://"), _load_openmmlab),
    (_NOT_READ, _refuse),
):
    CheckpointLoader.register_scheme(_prefixes, _loader, force=True)
