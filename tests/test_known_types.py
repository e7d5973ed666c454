"""Nothing that a config names is imported, called or evaluated, wherever it stands, but parts of a detector."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import random
import sys
from pathlib import Path

import pytest
import torch

from pipeline.coco.model import CocoCategory
from pipeline.detection.config import KEYS, published_config, read_detector
from pipeline.detection.known_types import registered_parts, require_known_types
from pipeline.detection.predictor import Predictor
from pipeline.detection.pretrained import load_file
from pipeline.detection.published import CONFIG, read_published
from pipeline.errors import StageError
from stages.runner import run_stage
from tests.fuzzing import at, places
from tests.tiny_detectors import publish_tiny
from tests.tiny_training import TEACHER, training_experiment
from tests.torture import seeds

CONFIGS = sorted((Path(__file__).parent.parent / "configs/detectors").glob("*.py"))
CANARY = "s4m_canary"
HOSTILE = [
    f"{CANARY}.run", CANARY, f"{CANARY}.inner.Run", f"mmdet.{CANARY}.run", f"__import__('{CANARY}')", "os.system",
    "subprocess.check_call", "builtins.exec", "torch.hub.load", "mmengine.Config.fromfile", "mmengine.hub.get_model",
    "KnowledgeDistillationSingleStageDetector", "mmdet.CameraMotionCompensation", "BertModel", "s4m.MaskRCNN",
    "no_such_part", "", "é", "mmdet.", ".run", 5, True, ["ResNet"], {"type": "ResNet"},
]  # fmt: skip
"""What could be given as a type. No module of the first names exists, but for the canary."""


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """A module that can be imported, and that nothing may import."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{CANARY}.py").write_text("def run(*args, **settings):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield tmp_path
    assert CANARY not in sys.modules, sys.modules.pop(CANARY)


def content(path: Path):
    read = read_detector(path, {})
    return {key: copy.deepcopy(read.content[key]) for key in KEYS}


def dicts(value):
    """The paths of all dicts in a tree."""
    return [path for path in [(), *places(value)] if isinstance(at(value, path), dict)]


def dotted(path):
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_type_that_is_no_part_of_a_detector_is_refused_at_every_place_with_its_key(path):
    tree = content(path)
    tried = 0
    for place in dicts(tree):
        if not place:
            continue
        for key in ("type", "constructor", "resize_type", "conv_type", "padding_mode"):
            if key != "type" and key not in at(tree, place) and len(place) > 2:
                continue  # where it stands, and near the top
            changed = copy.deepcopy(tree)
            for hostile in HOSTILE:
                if place == ("model",) and key == "type" and hostile == "s4m.MaskRCNN":
                    continue  # the one place of a whole model
                at(changed, place)[key] = hostile
                with pytest.raises(StageError) as caught:
                    require_known_types("it", changed)
                assert f"\n  {dotted((*place, key))}: " in str(caught.value)
                tried += 1
    assert tried > 1000


def test_text_that_reads_as_a_name_in_a_module_is_refused_wherever_it_stands():
    tree = content(CONFIGS[0])
    texts = [place for place in places(tree) if isinstance(at(tree, place), str | int | float)]
    assert len(texts) > 100
    for place in texts:
        if place[-1] in ("checkpoint", "pretrained", "prefix"):  # files and the beginning of names: never looked up
            continue
        changed = copy.deepcopy(tree)
        at(changed, place[:-1])[place[-1]] = f"{CANARY}.run"
        with pytest.raises(StageError, match=CANARY):
            require_known_types("it", changed)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"model.backbone": {"_delete_": True, "type": f"{CANARY}.run", "x": 1}}, "model.backbone.type"),
        ({"model.backbone.type": f"{CANARY}.run"}, "model.backbone.type"),
        ({"model.data_preprocessor.type": "subprocess.check_call"}, "model.data_preprocessor.type"),
        ({"model.test_cfg.rpn.nms.type": f"__import__('{CANARY}')"}, "model.test_cfg.rpn.nms.type"),
        ({"model.roi_head.bbox_roi_extractor.roi_layer.type": "nms"},
         "model.roi_head.bbox_roi_extractor.roi_layer.type"),
        ({"model.backbone.init_cfg": {"type": "os.system", "x": 1}}, "model.backbone.init_cfg.type"),
        ({"model.backbone._scope_": CANARY}, "model.backbone._scope_"),
        ({"optim_wrapper.constructor": f"{CANARY}.run"}, "optim_wrapper.constructor"),
        ({"optim_wrapper.optimizer.type": f"{CANARY}.run"}, "optim_wrapper.optimizer.type"),
        ({"schedule.type": f"{CANARY}.run"}, "schedule.type"),
        ({"test_transforms": [{"type": f"{CANARY}.run"}]}, "test_transforms[0].type"),
        ({"train_transforms": [{"type": "RandomApply", "transforms": [{"type": "os.system"}]}]},
         "train_transforms[0].transforms[0].type"),
        ({"model.backbone": {"_delete_": True, "type": "ResNet", "x'): print(1) #": 5}}, "model.backbone"),
    ],
)  # fmt: skip
def test_overrides_are_refused_with_their_key(overrides, key):
    with pytest.raises(StageError) as caught:
        read_detector(CONFIGS[-1], overrides)
    assert str(caught.value).startswith(f"{CONFIGS[-1]}: refused:")
    assert f"\n  {key}: " in str(caught.value)


@pytest.mark.parametrize(
    "key", ["panoptic_head.transformer_decoder.num_layers", "roi_head.mask_head.num_convs", "neck.num_outs"]
)
def test_more_layers_than_any_detector_has_are_refused_before_they_are_built(key):
    model: dict = {"type": "MaskRCNN"}
    *parents, last = key.split(".")
    inner = model
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = 1_000
    require_known_types("here", {"model": model})
    inner[last] = 10**30
    with pytest.raises(StageError, match=rf"model\.{key}: is more than 1,000 layers"):
        require_known_types("here", {"model": model})


def test_all_that_detectors_name_is_known_and_whole_models_are_not():
    assert {"ResNet", "mmdet.FPN", "s4m.StandardRoIHead", "Pretrained", "DeltaXYWHBBoxCoder"} <= registered_parts(
        "model"
    )
    assert {"AdamW", "OptimWrapper", "DefaultOptimWrapperConstructor"} <= registered_parts("optim_wrapper")
    assert {"Resize", "RandomCrop", "RandomChoice"} <= registered_parts("train_transforms")
    never = {"KnowledgeDistillationSingleStageDetector", "LAD", "BertModel", "CameraMotionCompensation", "s4m.MaskRCNN"}
    assert not never & registered_parts("model")


def test_published_configs_are_accepted():
    for path in CONFIGS:
        config = published_config(read_detector(path, {}), (CocoCategory(1, "one"),)).to_dict()
        require_known_types("it", config)
        require_known_types("it", json.loads(json.dumps(config)))


class Program:
    def __reduce__(self):
        return exec, (f"import {CANARY}",)


@pytest.mark.parametrize("name", ["weights.pth", "state.pkl"])
def test_weights_that_a_config_starts_from_are_not_unpickled(tmp_path, name):
    from mmengine.runner.checkpoint import CheckpointLoader

    path = tmp_path / name
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps(Program()))
    else:
        torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Program()}, path)
    with pytest.raises(StageError, match="set teacher.init_weights to a file of tensors alone"):
        CheckpointLoader.load_checkpoint(str(path))
    torch.save({"a": torch.ones(2)}, path)
    assert CheckpointLoader.load_checkpoint(str(path))["a"].tolist() == [1, 1]


def test_weights_from_the_web_are_not_unpickled(tmp_path, monkeypatch):
    from mmengine.runner.checkpoint import CheckpointLoader

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "meta": Program()}, path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in (f"file://{path}", "torchvision://no_such_model", "open-mmlab://no_such", "s3://a/b", "mmcls://vgg11"):
        with pytest.raises(StageError):
            CheckpointLoader.load_checkpoint(name)
    cached = tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    path.rename(cached)  # as if it came from there
    for name in ("torchvision://resnet18", "https://download.pytorch.org/models/resnet18-f37072fd.pth"):
        with pytest.raises(StageError, match="holds more than tensors|damaged, or not weights"):
            CheckpointLoader.load_checkpoint(name)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(StageError, match=r"none.pth: no such weights"):
        load_file(str(tmp_path / "none.pth"))


ODD = [None, True, -1, 0, 0.5, 10**30, -(10**400), "", "x", "\x00", "a" * 300, [], [[]], {}, {"a": 1}, float("nan")]


def mutated(rng, tree):
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 2, 3])):
        all_places = list(places(tree))
        place = rng.choice(all_places)
        parent, key = at(tree, place[:-1]), place[-1]
        change = rng.randrange(5)
        if change == 0:
            del parent[key]
        elif change == 1:
            parent[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif change == 2:
            parent[key] = copy.deepcopy(rng.choice(ODD))
        elif change == 3:
            where = at(tree, rng.choice(dicts(tree)))
            where[rng.choice(["type", "constructor", "_scope_", "resize_type", "init_cfg"])] = copy.deepcopy(
                rng.choice(HOSTILE)
            )
        else:
            parent[key] = copy.deepcopy(at(tree, rng.choice(all_places)))
        if not tree:
            break
    text = json.dumps(tree)
    if rng.random() < 0.1:
        place = rng.randrange(len(text))
        text = (
            text[:place] + rng.choice(["", "{", "NaN", '"', "\\ud800", "9" * 5000]) + text[place + rng.randrange(3) :]
        )
    return text


@pytest.mark.slow
@seeds(12)
def test_damaged_configs_of_trained_detectors_are_refused_or_built(tmp_path, seeds):
    folders = [publish_tiny(tmp_path / family, family, resized=True) for family in ("mask_rcnn", "mask2former")]
    originals = [json.loads((folder / CONFIG).read_text()) for folder in folders]
    refused = 0
    for seed in seeds:
        if seed % 100 == 0:
            gc.collect()  # models have cycles, which Python collects too seldom for their size
        rng = random.Random(seed)
        chosen = rng.randrange(len(folders))
        text = mutated(rng, originals[chosen])
        path = folders[chosen] / CONFIG
        path.unlink()
        path.write_text(text)
        try:
            Predictor(read_published(folders[chosen]), "cpu", "fp32", 1)
        except StageError as error:
            assert str(error)
            refused += 1
        except BaseException as error:
            error.add_note(f"seed {seed}: {text[:20000]}")
            raise
    assert len(seeds) > refused > len(seeds) // 4


def teacher(folder: Path, detector: Path, *overrides: str) -> str:
    """Run the split and then the teacher, which must be refused; gives the reason."""
    experiment = training_experiment(folder, {"teacher": TEACHER | {"detector": str(detector)}}, *overrides)
    run_stage(experiment, "split", 1)
    with pytest.raises(StageError) as caught:
        run_stage(experiment, "train-teacher", 1)
    return str(caught.value)


@pytest.mark.parametrize(
    "place",
    ["stores/train-teacher/0123/detector.py", "stores/train-teacher/0123.partial/a/b.py", "other/x/detector.py"],
)
def test_a_detector_in_a_store_is_not_executed(canary, place, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(canary / "work"))
    path = canary / place
    path.parent.mkdir(parents=True)
    path.write_text(f"import {CANARY}")
    if place.startswith("other"):  # another store
        (path.parent / "seal.json").write_text("{}")
    by_base, by_link = canary / "own.py", canary / "link.py"
    by_base.write_text(f'_base_ = "{path}"\n')
    by_link.symlink_to(path)
    for detector in (path, by_base, by_link):
        reason = teacher(canary, detector)
        assert f"{path if detector != by_link else by_link}: a detector config is a program, and none is" in reason


def test_a_detector_from_elsewhere_is_named_as_a_program_once(canary, monkeypatch, capsys):
    monkeypatch.setenv("S4M_WORK", str(canary / "work"))
    refused = teacher(canary, canary / "tiny_detector.py", f"teacher.overrides.model.backbone.type={CANARY}.run")
    assert f"model.backbone.type: '{CANARY}.run' is no registered part of a detector" in refused
    said = capsys.readouterr().err
    line = f"train-teacher: a detector config is a program, and is executed: {canary}/tiny_detector.py"
    assert said.count(line) == 1
    shipped = "configs/detectors/mask_rcnn_small.py"
    refused = teacher(canary, Path(shipped), f"teacher.overrides.model.backbone.type={CANARY}.run")
    assert "is no registered part" in refused
    assert "is a program" not in capsys.readouterr().err
