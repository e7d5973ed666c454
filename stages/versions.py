"""Versions of this program and of the libraries that results depend on, without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("s4m", "torch", "onedl-mmdetection", "segment-anything", "zarr", "numpy")


def library_versions() -> dict[str, str]:
    """Return the versions of what is installed, by name."""
    found: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
