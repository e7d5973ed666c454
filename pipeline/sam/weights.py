"""Identify weights by their content, and download those that segment_anything's authors publish. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from pipeline.errors import S4MError
from pipeline.files.locks import lock_file
from pipeline.sam.files import (
    PUBLISHED,
    PublishedFile,
    checkpoint_path,
    hf_folder,
    require_known,
    sam_digest,
)
from pipeline.sam.hf.folder import check_folder
from pipeline.sam.tiny import WEIGHTS_FILE

PUBLISHER: Final = "https://dl.fbaipublicfiles.com/segment_anything"
SILENCE_SECONDS: Final = 60
"""Time without any data after which the connection counts as lost."""

BLOCK_BYTES: Final = 1 << 20

Progress = Callable[[int, int], None]
"""Called with bytes so far and bytes in all."""


@dataclass(frozen=True)
class Weights:
    """The weights in a file or folder. `published`: they are the model's own, by digest; else custom ones.

    sha256: of the file; of all files of a model of transformers with their names.
    """

    model: str
    path: Path
    sha256: str
    published: bool


def identify_weights(model: str, checkpoint: Path | None = None) -> Weights:
    """Return what a model's weight file is, its own or a custom one; S4MError where it cannot be that model's.

    Whether the tensors of custom weights fit is checked when they are loaded.
    """
    folder = hf_folder(model)
    if folder is not None:
        check_folder(folder, model)
        return Weights(model, folder, sam_digest(model, None, hash_weights, _hash_text), published=False)
    require_known(model)
    path = checkpoint_path(model, checkpoint)
    if not path.is_file():
        raise S4MError(_missing(model, path, "there is no such file"))
    own = PUBLISHED.get(model)
    if own is not None and path.name == own.name and path.stat().st_size < own.bytes:
        raise S4MError(
            f"{path}: truncated: {path.stat().st_size:,} bytes of {own.bytes:,}. Delete it and run "
            f"`s4m weights get {model}`"
        )
    sha256 = hash_weights(path)
    for name, published in PUBLISHED.items():
        if sha256 == published.sha256 and name != model:
            raise S4MError(f"{path}: these are the weights of {name}, not of {model}: set sam.model to {name}")
    is_published = path == WEIGHTS_FILE if own is None else sha256 == own.sha256
    if own is not None and path.name == own.name and not is_published:
        raise S4MError(
            f"{path}: has the name of {model}'s published weights, but not their content: expected SHA-256 "
            f"{own.sha256}, found {sha256}. If it is damaged, delete it and run `s4m weights get {model}`; if "
            "these are weights of your own, rename the file and set sam.checkpoint to it"
        )
    return Weights(model, path, sha256, is_published)


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def download_weights(model: str, folder: Path, progress: Progress | None = None, publisher: str = PUBLISHER) -> Weights:
    """Download a model's published weights into a folder that lacks them; continue where an earlier try stopped.

    The data is written to a `.part` file, which gets its name when its content is checked.
    """
    if model not in PUBLISHED:
        raise S4MError(f"{model}: has no published weights to fetch; those that have: {', '.join(PUBLISHED)}")
    published = PUBLISHED[model]
    path = folder / published.name
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fill(path, f"{publisher}/{published.name}", published, progress)
        except BlockingIOError as error:
            raise S4MError(f"{path}: another process is fetching this file: wait for it") from error
        except (OSError, HTTPException) as error:
            raise S4MError(_missing(model, path, f"{_reason(error)}; what has arrived is kept")) from error
    return identify_weights(model, path)


def _fill(path: Path, url: str, published: PublishedFile, progress: Progress | None) -> None:
    part = path.with_name(f"{path.name}.part")
    part.touch()
    with part.open("r+b") as file:
        lock_file(file)
        if path.exists():  # another process has just fetched it
            return
        _fetch(url, file, published.bytes, progress)
        file.flush()
        os.fsync(file.fileno())
        sha256 = hash_weights(part)
        if sha256 != published.sha256:
            part.unlink()
            raise S4MError(
                f"{url}: what arrived has SHA-256 {sha256}, expected {published.sha256}: it was deleted. Try again; "
                f"if it stays so, get {published.name} elsewhere and put it in {path.parent}"
            )
        part.rename(path)


def _fetch(url: str, file: IO[bytes], total: int, progress: Progress | None) -> None:
    """Append to a file what is missing of `total` bytes."""
    if file.seek(0, os.SEEK_END) > total:
        file.truncate(file.seek(0))
    if file.tell() == total:
        return
    request = Request(url, headers={"Range": f"bytes={file.tell()}-"} if file.tell() else {})  # noqa: S310
    with urlopen(request, timeout=SILENCE_SECONDS) as answer:  # noqa: S310
        if answer.status != HTTPStatus.PARTIAL_CONTENT:  # the whole file, whatever was requested
            file.truncate(file.seek(0))
        while file.tell() < total and (block := answer.read(BLOCK_BYTES)):
            file.write(block)
            if progress is not None:
                progress(file.tell(), total)
    if file.tell() < total:
        raise ConnectionError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, URLError):
        return f"the server cannot be reached ({error.reason})"
    return str(error)


def _missing(model: str, path: Path, reason: str) -> str:
    """Return the message for a path without a model's weights."""
    own = PUBLISHED.get(model)
    if path == WEIGHTS_FILE:
        return f"{path}: no weights for {model}: {reason}. It is part of this program: install it again"
    if own is None or path.name != own.name:
        return f"{path}: no weights for {model}: {reason}: check sam.checkpoint"
    return (
        f"{path}: no weights for {model}: {reason}. `s4m weights get {model}` fetches them. Without a network, "
        f"put {PUBLISHER}/{own.name} ({own.bytes:,} bytes, SHA-256 {own.sha256}) there, or set S4M_WEIGHTS to the "
        "folder that has it"
    )
