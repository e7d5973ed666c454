"""Stages and commands with SAMs of transformers: what they do with segment_anything's, they do with these."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("transformers", reason="needs the extra hf: make setup EXTRAS=hf")

from pipeline.embeddings.embedding_store import ARRAYS, EmbeddingStore
from pipeline.labels.rows import Status
from pipeline.sam.hf.engine import HfEngine
from pipeline.sam.worker import build_engine
from pipeline.structure.separation import HALF
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import TARGETS
from pipeline.workflow.result_store import EMBEDDINGS
from stages.options import workspace
from stages.runner import run_stage
from tests import tiny_sams
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import make_experiment_files
from tests.tiny_refinement import box_mask, make_refinement, noise, refine, result

SIZES_HW = ((48, 64), (90, 40), (30, 100))
KEEP_SAM = "refine.gate=none"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sams")
    return {family: tiny_sams.save(family, root / family) for family in tiny_sams.BUILDERS}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    threads = torch.get_num_threads()
    yield partial(make_refinement, tmp_path)
    build_engine.cache_clear()
    torch.set_num_threads(threads)


def three_images():
    """Images of different shapes, two instances each, one of them small."""
    pixels = {number: noise(number, size) for number, size in enumerate(SIZES_HW, start=1)}
    entries = []
    for image_id, (height, width) in enumerate(SIZES_HW, start=1):
        for box in ((2, 3, width // 2, height - 5), (width - 12, 4, width - 4, 12)):
            entries.append(result(image_id, box_mask(*box, (height, width))))
    return entries, pixels


def instances(store):
    return [instance for labels in store for instance in labels.instances]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "preset"),
    [*((family, "best") for family in tiny_sams.BUILDERS), ("sam2", "s4m"), ("sam_hq", "samrefiner")],
)
def test_refines_with_every_preset(files, folders, family, preset):
    path = files(*three_images())
    store = refine(path, f"sam.model=hf:{folders[family]}", f"refine.preset={preset}", "refine.zoom_below_px=16")
    assert [labels.status for labels in store] == [Status.OK] * 3
    assert all(0 <= each.predicted_iou <= 1 and 0 <= each.stability <= 1 for each in instances(store))
    assert len(instances(store)) == 6
    assert len({each.predicted_iou for each in instances(store)}) > 1


@pytest.mark.slow
def test_the_result_belongs_to_the_content_not_to_the_name(files, folders, tmp_path):
    path = files(*three_images())
    other = shutil.copytree(folders["sam2"], tmp_path / "another name")
    ids = [refine(path, f"sam.model=hf:{folder}").path for folder in (folders["sam2"], other)]
    assert ids[0] == ids[1]
    config = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0.1, 0.1, 0.1]}))
    assert refine(path, f"sam.model=hf:{other}").path != ids[0]
    assert refine(path, f"sam.model=hf:{folders['edgetam']}").path != ids[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam2", "sam_hq"])
def test_kept_embeddings_hold_all_that_the_decoder_needs(files, folders, family, tmp_path, monkeypatch):
    monkeypatch.setattr(HfEngine, "_encoded", _counting(encoded := []))
    path = files(*three_images())
    model, cached = f"sam.model=hf:{folders[family]}", "compute.cache_embeddings=true"
    plain = ("refine.zoom_below_px=0", KEEP_SAM)
    kept = refine(path, model, cached, *plain)
    assert sum(encoded) == 3
    refine(path, model, cached, "refine.points=5", *plain)
    assert sum(encoded) == 3
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "others"))
    pairs = [
        (one, other, coco_mask.iou([labels.rle(one)], [labels.rle(other)], [0])[0, 0])
        for labels, fresh in zip(kept, refine(path, model, *plain), strict=True)
        for one, other in zip(labels.instances, fresh.instances, strict=True)
    ]
    # Of candidates that are equally good, rounding may choose another.
    same = [(one, other, iou) for one, other, iou in pairs if one.candidate == other.candidate]
    assert len(same) >= 4
    assert np.mean([iou for _, _, iou in same]) > 0.95
    assert max(abs(one.predicted_iou - other.predicted_iou) for one, other, _ in same) < 0.01
    (sealed,) = (tmp_path / "stores" / EMBEDDINGS).glob("*/seal.json")
    store = EmbeddingStore.open(sealed.parent / ARRAYS)
    assert store.attributes.shape == {"sam2": (128, 8, 8), "sam_hq": (64, 8, 8)}[family]


def _counting(encoded):
    encode = HfEngine._encoded

    def counting(self, images):
        encoded.append(len(images))
        return encode(self, images)

    return counting


@pytest.mark.slow
def test_workers_do_not_change_the_result(files, folders, monkeypatch, tmp_path, forked_workers):
    path = files(*three_images())
    digests = set()
    for workers in (1, 2):
        monkeypatch.setenv("S4M_STORE", str(tmp_path / f"stores{workers}"))
        digests.add(refine(path, f"sam.model=hf:{folders['sam2']}", f"compute.workers={workers}").attributes.digest)
    assert len(digests) == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_used_stops_the_stage_with_its_reason(files, tmp_path, capsys):
    path = files(*three_images())
    with pytest.raises(Exception, match=r"no such folder, for sam\.model hf:.*none: check sam\.model"):
        refine(path, f"sam.model=hf:{tmp_path / 'none'}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "prompt"), [*((family, "point") for family in tiny_sams.BUILDERS), ("sam2", "point-and-box")]
)
def test_distils_from_the_decoders_tokens(tmp_path, files, folders, family, prompt):
    tiny_coco(tmp_path, images=2, size=(64, 48))
    (tmp_path / "unlabelled").mkdir()
    data = {
        "labelled": {"annotations": "annotations.json", "images": "images"},
        "unlabelled": {"images": "unlabelled"},
    }
    for number in (1, 2):  # random weights see little in even surfaces
        Image.fromarray(noise(number)).save(tmp_path / "images" / f"{number:04}.png")
    Image.fromarray(noise(3)).save(tmp_path / "unlabelled" / "other.png")
    path = make_experiment_files(tmp_path, {"data": data, "distill": {"anchors": 8, "prompt": prompt}})
    experiment = load_experiment(path, [f"sam.model=hf:{folders[family]}"])
    for stage in ("split", "distill"):
        run_stage(experiment, stage, 1)
    store = StructureStore.open(workspace(experiment).result("distill") / TARGETS)
    for image_id in store.ids.tolist():
        targets = store.by_id(image_id)
        assert targets.status is Status.OK
        columns, rows = (targets.anchors_xy / (64, 48) * 64).astype(int).T
        own = targets.maps[np.arange(8), rows, columns]
        assert own.min() > HALF  # the position nearest to an anchor is much like it
        assert len(np.unique(targets.maps)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_refine_coco(s4m, tmp_path, folders, family):
    tiny = tiny_coco(tmp_path / "data", images=2, size=(70, 40))
    told = s4m(
        "refine-coco",
        tiny.annotations,
        tiny.image_root,
        "refined.json",
        "--sam",
        f"hf:{folders[family]}",
        "--set",
        KEEP_SAM,
    )
    assert told.status == 0
    before, after = (json.loads(path.read_text()) for path in (tiny.annotations, tmp_path / "refined.json"))
    assert len(after["annotations"]) == len(before["annotations"])
    build_engine.cache_clear()
