"""Download a model of transformers from Hugging Face's hub, at one revision that is recorded with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import S4MError
from pipeline.files.writing import write_atomically
from pipeline.sam.files import CONFIG_FILES
from pipeline.sam.hf.extra import require_transformers
from pipeline.sam.hf.folder import INDEX, WEIGHTS, check_folder

RECORD: Final = "s4m-revision.json"
"""File that says what a folder was downloaded from. It is written last: a folder without it may be incomplete."""

HUB: Final = "https://huggingface.co"
"""Address of the hub, unless HF_ENDPOINT names another."""


@dataclass(frozen=True)
class Origin:
    """Where the model in a folder comes from. revision: the commit on the hub."""

    name: str
    revision: str


def origin_of(folder: Path) -> Origin | None:
    """Return what a folder was downloaded from; None for one that was made otherwise, or is incomplete."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        return Origin(str(record["name"]), str(record["revision"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def download_model(name: str, folder: Path, revision: str | None = None, hub: str | None = None) -> Origin:
    """Download a model into a folder that lacks it; continue where an earlier try stopped.

    revision: a commit, branch or tag; None: whatever the folder has, else the newest commit. Raise S4MError if the
    folder has another revision. hub: its address.
    """
    hub = hub or os.environ.get("HF_ENDPOINT") or HUB
    made = origin_of(folder)
    if made is not None and revision in (None, made.revision):
        check_folder(folder, f"hf:{name}")
        return made
    require_transformers()
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub)
    with _explained(name, hub):
        info = api.model_info(name, revision=revision)
        if made is not None and made.revision != info.sha:
            raise S4MError(
                f"{folder}: holds revision {made.revision}, asked for {info.sha}: delete the folder, or choose another "
                "with --folder"
            )
        for file in _wanted(name, [each.rfilename for each in info.siblings]):
            api.hf_hub_download(name, file, revision=info.sha, local_dir=folder)
    check_folder(folder, f"hf:{name}")
    origin = Origin(name, info.sha)
    write_atomically(folder / RECORD, json.dumps(asdict(origin), indent=1) + "\n")
    return origin


def _wanted(name: str, files: Sequence[str]) -> list[str]:
    """Return the files that make the model, of all those of a repository."""
    weights = [WEIGHTS] if WEIGHTS in files else []
    if not weights and INDEX in files:
        weights = [INDEX, *(file for file in files if file.endswith(".safetensors") and "/" not in file)]
    if CONFIG_FILES[0] not in files or not weights:
        raise S4MError(
            f"{name}: not in the layout of transformers, which has {CONFIG_FILES[0]} and {WEIGHTS}: look for a "
            "repository of the same model that has it"
        )
    return [*(file for file in CONFIG_FILES if file in files), *weights]


@contextmanager
def _explained(name: str, hub: str) -> Iterator[None]:
    """Turn the hub's errors into S4MErrors that say what to do."""
    from huggingface_hub import errors

    page = f"{hub}/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise S4MError(
            f"{name}: its authors ask for accepted terms: accept them at {page}, then run `.venv/bin/hf auth login` or "
            "set HF_TOKEN to a token of your account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise S4MError(f"{name}: has no such revision; {page}/commits/main lists them") from error
    except errors.RepositoryNotFoundError as error:
        raise S4MError(f"{name}: no such model at {hub}, or a private one: check the name") from error
    except (OSError, ValueError, errors.HTTPError, errors.XetDownloadError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise S4MError(
            f"{name}: cannot be fetched from {hub} ({reason}); what has arrived is kept. Without a network, copy the "
            "folder from another machine and set sam.model to hf: and its path"
        ) from error
