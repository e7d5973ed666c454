"""Find the configs that come with the project: detectors and experiments.

An installed package holds them as `pipeline/configs`; in a checkout they lie in `configs` beside `pipeline`.
A file of the same name below the working directory is used instead of the shipped one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

CONFIGS: Final = Path("configs")
EXPERIMENTS: Final = CONFIGS / "experiments"

_PACKAGE: Final = Path(__file__).parent.parent


def shipped_configs() -> Path:
    """Return the folder of the shipped configs."""
    packaged = _PACKAGE / CONFIGS
    return packaged if packaged.is_dir() else _PACKAGE.parent / CONFIGS


def config_path(path: Path) -> Path:
    """Return the shipped file for a path `configs/…` that leads nowhere from the working directory, else the path."""
    if path.is_absolute() or path.parts[:1] != CONFIGS.parts or ".." in path.parts:
        return path
    shipped = shipped_configs() / path.relative_to(CONFIGS)
    try:
        return shipped if not path.exists() and shipped.is_file() else path
    except OSError:  # a name too long
        return path


def experiment_names(folder: Path) -> list[str]:
    """Return the names of the experiments in a folder; for `configs/experiments` also those of the shipped ones."""
    folders = [folder, shipped_configs() / "experiments"] if folder == EXPERIMENTS else [folder]
    return sorted({path.stem for each in folders for path in each.glob("*.yaml")})
