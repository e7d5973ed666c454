"""A folder with an adapted SAM: its card, its weights as safetensors, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from pipeline.compute.settings import ComputeSettings
from pipeline.errors import S4MError
from pipeline.refinement import on_arrays
from pipeline.sam.adapted import CARD, is_adapted_sam, read_adapted_sam, settings_of, with_adapted
from pipeline.sam.build import build_sam, read_state, write_state
from pipeline.sam.files import ADAPTED_WEIGHTS, sam_digest
from pipeline.sam.settings import SamSettings
from pipeline.sam.weights import hash_weights, identify_weights
from pipeline.sam.worker import SamChoice, build_engine
from stages.sam_commands import asked_sam

ADAPTED = {"model": "sam_tiny", "chosen": "adapted", "input_side": 64}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / ADAPTED_WEIGHTS
    state = build_sam("sam_tiny").state_dict()
    write_state({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, path)
    return path


@pytest.fixture
def folder(tmp_path, weights):
    return made(tmp_path / "adapted", weights)


def made(folder: Path, weights: Path, **card: object) -> Path:
    folder.mkdir()
    (folder / ADAPTED_WEIGHTS).symlink_to(weights)
    (folder / CARD).write_text(json.dumps(ADAPTED | card))
    return folder


def test_the_folder_is_a_sam_by_its_settings(folder):
    assert is_adapted_sam(folder)
    sam = settings_of(folder)
    assert (sam.model, sam.checkpoint, sam.input_side) == ("sam_tiny", folder / ADAPTED_WEIGHTS, 64)
    engine = build_engine(SamChoice.of(sam, ComputeSettings(device="cpu")))
    assert engine.frame.input_side == 64


def test_the_folder_is_a_checkpoint_too(folder):
    own, adapted = build_sam("sam_tiny").state_dict(), build_sam("sam_tiny", folder).state_dict()
    assert all(torch.equal(adapted[name], own[name] + 1) for name in own if own[name].is_floating_point())
    assert identify_weights("sam_tiny", folder).path == folder / ADAPTED_WEIGHTS
    assert sam_digest("sam_tiny", folder, hash_weights) == hash_weights(folder / ADAPTED_WEIGHTS)


@pytest.mark.slow
def test_arrays_are_refined_with_a_folder(folder, monkeypatch):
    seen = []
    real = on_arrays.build_engine
    monkeypatch.setattr(on_arrays, "build_engine", lambda sam: seen.append(sam) or real(replace(sam, checkpoint=None)))
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 10:30] = True
    on_arrays.refine(np.zeros((40, 40, 3), np.uint8), mask, sam=folder, device="cpu")
    assert [(sam.checkpoint, sam.input_side) for sam in seen] == [((folder / ADAPTED_WEIGHTS).absolute(), 64)]


def test_a_folder_is_named_as_a_model_is(folder, tmp_path):
    assert asked_sam(str(folder), None)["sam.checkpoint"] == folder / ADAPTED_WEIGHTS
    assert asked_sam("vit_b", tmp_path) == {"sam.model": "vit_b", "sam.checkpoint": tmp_path}
    assert asked_sam(None, None) == {"sam.model": None, "sam.checkpoint": None}
    with pytest.raises(typer.BadParameter, match="has weights of its own: leave this out"):
        asked_sam(str(folder), tmp_path)


def test_an_experiments_sam_takes_the_weights_unless_they_are_its_own(tmp_path, weights, folder):
    sam = SamSettings(model="sam_tiny", input_side=64)
    assert with_adapted(sam, folder) == sam.model_copy(update={"checkpoint": folder / ADAPTED_WEIGHTS})
    assert with_adapted(sam, made(tmp_path / "shipped", weights, chosen="shipped")) is sam


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("", "not the card of a SAM that was fitted to labels"),
        ("[" * 5000, "not the card of a SAM that was fitted to labels"),
        ('{"model": 3, "chosen": "adapted"}', "Expected `str`, got `int`"),
        ('{"chosen": "adapted"}', "missing required field `model`"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(folder, card, message):
    (folder / CARD).write_text(card)
    with pytest.raises(S4MError, match=message):
        read_adapted_sam(folder)


def test_a_folder_without_card_or_weights_is_refused(folder):
    (folder / ADAPTED_WEIGHTS).unlink()
    with pytest.raises(S4MError, match=r"has no sam.safetensors, which belongs to its card; `s4m sam adapt` makes"):
        read_adapted_sam(folder)
    (folder / CARD).unlink()
    assert not is_adapted_sam(folder)
    with pytest.raises(S4MError, match=r"no SAM that was fitted to labels: adaptation.json: No such file"):
        read_adapted_sam(folder)


@pytest.mark.parametrize(
    "card", [{"model": "sam_huge"}, {"model": "hf:elsewhere"}, {"model": "vit_b"}, {"input_side": 65}]
)
def test_a_card_that_names_no_sam_for_these_weights_is_refused(tmp_path, weights, card):
    with pytest.raises(S4MError, match=r"adaptation.json: names a SAM that cannot be used"):
        settings_of(made(tmp_path / "other", weights, **card))


def test_tensors_come_back_as_they_were_written(tmp_path):
    values = torch.arange(6.0).reshape(2, 3)
    state = {"turned": values.T, "one": torch.ones(()).expand(2), "half": values.half(), "count": torch.tensor(3)}
    write_state(state, tmp_path / "x.safetensors")
    found = read_state(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", None])
def test_a_damaged_file_is_refused(tmp_path, weights, content):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(weights.read_bytes()[:-100] if content is None else content)
    with pytest.raises(S4MError, match="damaged, or not a file of safetensors"):
        read_state(path)


def test_weights_of_another_model_are_refused_by_name(tmp_path, weights):
    with pytest.raises(S4MError, match="these are weights of sam_tiny, not of vit_b"):
        build_sam("vit_b", weights)
