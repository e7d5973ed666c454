"""Loading SAMs of transformers: safetensors alone, complete, in every layout in which they are published."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra hf: make setup EXTRAS=hf")

from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from pipeline.errors import S4MError
from pipeline.sam.build import embedding_shape
from pipeline.sam.frame import InputFrame
from pipeline.sam.hf.loading import load_hf_sam
from tests import tiny_sams

SHAPES = {
    "sam": (32, 8, 8),
    "sam2": (32 + 4 * 16 + 8 * 4, 8, 8),
    "sam_hq": (32 + 32, 8, 8),
    "edgetam": (32 + 4 * 16 + 8 * 4, 8, 8),
    "sam3_tracker": (32 + 4 * 16 + 8 * 4, 8, 8),
}
"""Channels of the image embedding and, in its grid, of the finer maps."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each family, made once."""
    root = tmp_path_factory.mktemp("sams")
    return {family: tiny_sams.save(family, root / family) for family in tiny_sams.BUILDERS}


@pytest.fixture
def folder(folders, tmp_path):
    """A SAM 2 to be changed."""
    return shutil.copytree(folders["sam2"], tmp_path / "mine")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        pytest.fail("asked for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def refusal(folder):
    with pytest.raises(S4MError) as caught:
        load_hf_sam(folder)
    return str(caught.value).removeprefix(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_sams.BUILDERS)
def test_a_saved_model_is_the_model(folders, family):
    expected = tiny_sams.build(family).state_dict()
    verbosity, is_offline = logging.get_verbosity(), constants.HF_HUB_OFFLINE
    found = load_hf_sam(folders[family])
    assert (logging.get_verbosity(), constants.HF_HUB_OFFLINE) == (verbosity, is_offline)
    state = found.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert not found.model.training
    side = 112 if family == "sam3_tracker" else 128
    assert found.frame == InputFrame(side, 32, keeps_aspect=family in ("sam", "sam_hq"))
    assert embedding_shape(f"hf:{folders[family]}") == SHAPES[family]


def test_lower_precision_is_widened(folder):
    state = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    assert {tensor.dtype for tensor in load_hf_sam(folder).model.state_dict().values()} == {torch.float32}


def test_a_model_for_videos_is_read_as_one_for_images(folder):
    """As facebook/sam2.1-hiera-* are published, by the names of an earlier transformers."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    state = load_file(folder / "model.safetensors")
    more = {"memory_attention.layers.0.norm.weight": torch.zeros(2), "memory_encoder.a": torch.zeros(2)}
    save_file(state | more, folder / "model.safetensors", metadata={"format": "pt"})
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    named = {**processor, "image_processor_type": "Sam2ImageProcessorFast", "processor_class": "Sam2VideoProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(named))
    assert type(load_hf_sam(folder).model).__name__ == "Sam2Model"


def test_the_config_of_a_whole_processor_will_do(folder):
    images = tiny_sams.BUILDERS["sam2"].image_processor()
    (folder / "preprocessor_config.json").unlink()
    tiny_sams.BUILDERS["sam2"].processor(images).save_pretrained(folder)
    assert (folder / "processor_config.json").exists()
    assert load_hf_sam(folder).frame == InputFrame(128, 32, keeps_aspect=False)


def published_name(name):
    """transformers 5.24 writes `tracker_model.` before every tensor, also before those that are not the tracker's."""
    own = name.removeprefix("tracker_model.")
    return own if own.startswith(("detector_model.", "tracker_neck.")) else name


def whole_sam_3(tracker_folder, folder):
    """As facebook/sam3 is published: a detector and a tracker in one, which share the image encoder."""
    shutil.copytree(tracker_folder, folder)
    state = {published_name(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    assert {name.partition(".")[0] for name in state} == {"detector_model", "tracker_model", "tracker_neck"}
    more = {"detector_model.text_encoder.a": torch.zeros(2), "tracker_model.memory_encoder.b": torch.zeros(2)}
    save_file(state | more, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    tracker = {**config, "model_type": "sam3_tracker_video", "image_size": 112}
    whole = {"model_type": "sam3_video", "tracker_config": tracker}
    whole["detector_config"] = {"model_type": "sam3", "vision_config": config["vision_config"]}
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


@pytest.mark.slow
def test_the_tracker_in_a_whole_sam_3(folders, tmp_path):
    folder = whole_sam_3(folders["sam3_tracker"], tmp_path / "mine")
    found = load_hf_sam(folder)
    expected = tiny_sams.build("sam3_tracker").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.model.state_dict().items())
    assert embedding_shape(f"hf:{folder}") == SHAPES["sam3_tracker"]


# Refusing


def test_the_first_tensors_that_do_not_fit_are_told(folder):
    state = load_file(folder / "model.safetensors")
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.other.weight"] = torch.zeros(1)
    state["no_memory_embedding"] = torch.zeros(1, 1, 16)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert refusal(folder) == (
        ": the weights do not fit config.json: missing: mask_decoder.iou_token.weight; unknown: "
        "mask_decoder.other.weight; no_memory_embedding is (1, 1, 16), expected (1, 1, 32)"
    )


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(folder, share):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(len(content) * share)])
    assert "cannot be loaded (" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": 5},
        {"mask_decoder_config": {"hidden_size": "many"}},
        {"prompt_encoder_config": {"image_size": 128, "patch_size": 16, "hidden_size": -1}},
    ],
    ids=str,
)
def test_configs_that_are_no_models(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    refusal(folder)
    with pytest.raises(S4MError, match=str(folder)):
        embedding_shape(f"hf:{folder}")


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": 1024, "width": 1024}},
        {"size": {"height": 128, "width": 64}},
        {"do_resize": False},
    ],
    ids=str,
)
def test_a_processor_that_makes_other_inputs_is_refused(folder, change):
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **change}))
    assert ": preprocessor_config.json must resize images to the 128 x 128 pixels of the model" in refusal(folder)


def test_a_processor_of_another_kind_is_refused(folder):
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    assert ": preprocessor_config.json must resize images" in refusal(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "NoSuchProcessor"}))
    assert "cannot be loaded (" in refusal(folder)


@pytest.mark.parametrize("change", [{"do_pad": False}, {"pad_size": {"height": 256, "width": 256}}], ids=str)
def test_a_processor_that_pads_otherwise_is_refused(folders, tmp_path, change):
    folder = shutil.copytree(folders["sam"], tmp_path / "mine")
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **change}))
    assert ": preprocessor_config.json must resize images to the 128 x 128 pixels of the model" in refusal(folder)
