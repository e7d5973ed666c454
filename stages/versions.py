"""Versions of this program and of the libraries that affect results, without importing them."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("s4m", "torch", "onedl-mmdetection", "segment-anything", "transformers", "zarr", "numpy")


def library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries, by name."""
    found: dict[str, str] = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
