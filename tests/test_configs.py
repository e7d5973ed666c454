"""The experiments that are shipped load."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.workflow.loading import load_experiment

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_is_valid(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    experiment = load_experiment(path, (), {}, check_files=False)
    assert experiment.name == path.stem
    assert experiment.teacher.detector.is_file()
