"""Folders of transformers are checked before anything is loaded, with or without transformers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipeline.errors import S4MError, StageError
from pipeline.sam.build import embedding_shape
from pipeline.sam.files import hf_folder, sam_digest, sam_files
from pipeline.sam.hf import extra
from pipeline.sam.hf.folder import MODEL_TYPES, check_folder
from pipeline.sam.settings import SamSettings
from pipeline.sam.weights import identify_weights
from pipeline.sam.worker import SamChoice, build_engine
from pipeline.workflow.loading import refine_only

CONFIG = {"model_type": "sam2", "vision_config": {"backbone_config": {"model_type": "sam2_hiera_det_model"}}}


def write(folder, config=CONFIG, processor=None, weights=b"weights"):
    """A folder that looks like a model's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor or {"image_processor_type": "X"}))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def refusal(folder, model="hf:mine"):
    with pytest.raises(S4MError) as caught:
        check_folder(folder, model)
    return str(caught.value).removeprefix(str(folder))


def test_a_folder_as_save_pretrained_writes_it(tmp_path):
    check_folder(write(tmp_path / "mine"), "hf:mine")


def test_what_is_missing_is_told(tmp_path):
    folder = tmp_path / "mine"
    assert refusal(folder, f"hf:{folder}") == f": no such folder, for sam.model hf:{folder}: check sam.model"
    assert refusal(folder, "hf:facebook/sam3").endswith(": `s4m weights get hf:facebook/sam3` fetches it")
    folder.mkdir()
    assert refusal(folder) == ": no config.json: expected a folder as transformers' save_pretrained writes it"
    write(folder, weights=None)
    assert refusal(folder) == ": no model.safetensors: only safetensors are read: fetch it"
    (folder / "pytorch_model.bin").touch()
    assert "only safetensors are read, which pytorch_model.bin is not: such files can run programs" in refusal(folder)
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json or processor_config.json is missing: it says how images" in refusal(folder)


def test_every_part_of_the_weights_must_be_there(tmp_path):
    folder = write(tmp_path / "mine", weights=None)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (folder / "model-1.safetensors").touch()
    assert refusal(folder).startswith(
        ": weights named in model.safetensors.index.json are missing: model-2.safetensors"
    )
    (folder / "model-2.safetensors").touch()
    check_folder(folder, "hf:mine")
    assert [path.name for path in sam_files(f"hf:{folder}")] == [
        "config.json",
        "preprocessor_config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ]
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    assert "are missing: ../model-1.safetensors" in refusal(folder)
    index.write_text("[]")
    assert "expected keys and values" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "model_type is bert, which is no SAM that can be asked about single images"),
        ({}, "model_type is None"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ({**CONFIG, "auto_map": {"AutoModel": "mine.Model"}}, "auto_map is refused: it names code of its own"),
        ({**CONFIG, "vision_config": {"auto_map": {"a": "b"}}}, "auto_map is refused"),
        ({**CONFIG, "more": [{"backbone": "somebody/elses"}]}, "backbone is refused: it names a backbone to fetch"),
        ({**CONFIG, "quantization_config": {}}, "quantization_config is refused: it is quantised"),
        ({**CONFIG, "attn_implementation": "somebody/kernel"}, "attn_implementation is refused: it names code"),
        ({**CONFIG, "a": {"model_type": "timm_wrapper", "architecture": "hf-hub:a/b"}}, "'hf-hub:a/b' is refused"),
        (
            {
                **CONFIG,
                "a": {"model_type": "timm_wrapper", "architecture": "x", "model_args": {"checkpoint_path": "/"}},
            },
            "model_args checkpoint_path is refused: only features_only, in_chans, out_indices are passed on",
        ),
        (
            {**CONFIG, "a": {"model_type": "timm_wrapper", "architecture": "x", "model_args": 1}},
            "model_args 1 is refused",
        ),
    ],
    ids=str,
)
def test_configs_that_ask_for_more_than_a_model_are_refused(tmp_path, config, message):
    assert message in refusal(write(tmp_path / "mine", config))


def test_processors_may_not_bring_code(tmp_path):
    folder = write(tmp_path / "mine", processor={"auto_map": {"AutoImageProcessor": "mine.P"}})
    assert refusal(folder) == (
        "/preprocessor_config.json: auto_map is refused: it names code of its own, which is never run"
    )


def test_every_model_of_transformers_is_known():
    auto = pytest.importorskip("transformers.models.auto.modeling_auto", reason="needs the extra hf")
    assert set(auto.MODEL_FOR_MASK_GENERATION_MAPPING_NAMES) == MODEL_TYPES


# Which files a name means


def test_a_name_is_a_folder_here_or_one_that_was_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    assert hf_folder("vit_b") is None
    assert str(hf_folder("hf:/somewhere/mine")) == "/somewhere/mine"
    assert str(hf_folder("hf:../models")) == "../models"
    assert hf_folder("hf:models") == (tmp_path / "models").relative_to(tmp_path)
    assert hf_folder("hf:facebook/sam3") == tmp_path / "weights/hf/facebook/sam3"
    (tmp_path / "facebook/sam3").mkdir(parents=True)
    assert str(hf_folder("hf:facebook/sam3")) == "facebook/sam3"


def test_the_digest_is_of_the_content_whatever_the_folder_is_called(tmp_path):
    digests = [identify_weights(f"hf:{write(tmp_path / name)}").sha256 for name in ("one", "two")]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 64
    changed = [
        write(tmp_path / "a", weights=b"others"),
        write(tmp_path / "b", config={**CONFIG, "initializer_range": 0.1}),
        write(tmp_path / "c", processor={"image_processor_type": "Y"}),
    ]
    assert len({*digests, *(identify_weights(f"hf:{folder}").sha256 for folder in changed)}) == 4
    (tmp_path / "one" / "README.md").write_text("not part of the model")
    assert identify_weights(f"hf:{tmp_path / 'one'}").sha256 == digests[0]


def test_segment_anythings_models_keep_their_digest(tmp_path):
    file = tmp_path / "mine.pth"
    file.touch()
    assert sam_digest("vit_b", file, lambda path: f"digest of {path.name}") == "digest of mine.pth"


def test_the_command_identifies_folders_and_refuses_other_names(s4m, tmp_path):
    folder = write(tmp_path / "mine")
    told = s4m("weights", "check", f"hf:{folder}")
    assert "".join(told.out.split()).startswith(f"{folder}:customweightsofhf:{folder},SHA-256")
    assert "is a folder, not a file" in " ".join(s4m("weights", "check", f"hf:{folder}", folder).err.split())
    told = s4m("weights", "check", "vit_x")
    assert (told.status, told.err.strip()) == (1, "vit_x: no such SAM; there are sam_tiny, vit_b, vit_l, vit_h")


# Settings


def test_a_checkpoint_beside_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the weights of hf:a/b lie in its folder: leave sam\.checkpoint out"):
        SamSettings(model="hf:a/b", checkpoint=tmp_path)
    with pytest.raises(ValueError, match="only sam_tiny takes other sizes, sam.model is hf:a/b"):
        SamSettings(model="hf:a/b", input_side=256)


def test_variables_in_a_folder_are_filled_in(monkeypatch):
    monkeypatch.setenv("MODELS", "/models")
    assert SamSettings(model="hf:$MODELS/mine").model == "hf:/models/mine"
    with pytest.raises(S4MError, match="sam.model .*which names the environment variable"):
        refine_only(["sam.model=hf:$NO_SUCH_VARIABLE/mine"])


@pytest.mark.parametrize("model", ["vit_x", "hf:", "hf: ", 5, None])
def test_a_model_that_is_none_says_what_there_is(model):
    with pytest.raises(S4MError) as caught:
        refine_only([f"sam.model={json.dumps(model)}"])
    assert (
        "expected one of sam_tiny, vit_b, vit_l, vit_h or hf: with a folder or a name of Hugging Face transformers"
    ) in str(caught.value)


# Without transformers


def test_without_transformers_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(StageError, match=r"need transformers, which is not installed here: `make setup EXTRAS=hf`"):
        extra.require_transformers()
    wanted = refine_only([f"sam.model=hf:{write(tmp_path / 'mine')}", "compute.device=cpu"])
    for ask in (
        lambda: build_engine(SamChoice.of(wanted.sam, wanted.compute)),
        lambda: embedding_shape(wanted.sam.model),
    ):
        with pytest.raises(StageError, match="need transformers"):
            ask()
    build_engine.cache_clear()


@pytest.mark.slow
def test_the_pipeline_does_not_import_transformers():
    code = "import sys, pipeline.sam.worker, pipeline.sam.weights; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
