"""The SAM of a worker process: built once, and again where its weights are others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from pipeline.compute.settings import COMPILED_FROM_IMAGES
from pipeline.errors import S4MError
from pipeline.sam.tiny import WEIGHTS_FILE
from pipeline.sam.worker import SamChoice, build_engine
from pipeline.workflow.loading import refine_only


@pytest.fixture(autouse=True)
def no_engine_is_left():
    threads = torch.get_num_threads()
    yield
    build_engine.cache_clear()
    torch.set_num_threads(threads)


def test_weights_replaced_under_the_same_name_are_loaded(tmp_path):
    checkpoint = tmp_path / "sam.pt"
    shutil.copy(WEIGHTS_FILE, checkpoint)
    experiment = refine_only([f"sam.checkpoint={checkpoint}", "compute.device=cpu"])
    first = build_engine(SamChoice.of(experiment.sam, experiment.compute))
    assert build_engine(SamChoice.of(experiment.sam, experiment.compute)) is first
    state = torch.load(WEIGHTS_FILE, weights_only=True)
    other = tmp_path / "other.pt"
    torch.save({name: value * 1.1 if value.is_floating_point() else value for name, value in state.items()}, other)
    other.rename(checkpoint)
    second = build_engine(SamChoice.of(experiment.sam, experiment.compute))
    assert second is not first
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    features = [engine.encode([image]).to_numpy() for engine in (first, second)]
    assert abs(features[0] - features[1]).max() > 0.01


@pytest.mark.parametrize(
    ("asked", "workers", "images", "compiled"),
    [
        ("auto", 1, 0, "never"),
        ("auto", 1, COMPILED_FROM_IMAGES - 1, "never"),
        ("auto", 1, COMPILED_FROM_IMAGES, "on_gpu"),
        ("auto", 2, COMPILED_FROM_IMAGES, "never"),
        ("auto", 2, 2 * COMPILED_FROM_IMAGES, "on_gpu"),
        ("true", 1, 0, "always"),
        ("false", 1, 10 * COMPILED_FROM_IMAGES, "never"),
    ],
)
def test_compiling_follows_the_images_of_each_process(asked, workers, images, compiled):
    experiment = refine_only([f"compute.compile={asked}", f"compute.workers={workers}"])
    assert SamChoice.of(experiment.sam, experiment.compute, images).compiled == compiled


def test_a_missing_file_is_told_by_who_builds_the_model(tmp_path):
    experiment = refine_only([f"sam.checkpoint={tmp_path / 'none.pt'}"])
    sam = SamChoice.of(experiment.sam, experiment.compute)
    with pytest.raises(S4MError, match="no weights for sam_tiny: there is no such file"):
        build_engine(sam)
