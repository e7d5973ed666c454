"""Configs that come with the project are found from any folder; files of one's own go before them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.detection.config import read_detector
from pipeline.files.identity import IdentityCache
from pipeline.files.shipped import config_path, experiment_names, shipped_configs
from pipeline.workflow.inputs import read_contents
from pipeline.workflow.loading import load_experiment
from tests.tiny_experiment import make_experiment_files

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = Path("configs/detectors/mask_rcnn_small.py")
TWO_BASES = Path("configs/detectors/mask2former_r50_cityscapes.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkout_ships_its_own_configs():
    assert shipped_configs() == CONFIGS


def test_a_config_of_the_working_folder_is_used_before_the_shipped_one(folder):
    assert config_path(SMALL) == CONFIGS / "detectors/mask_rcnn_small.py"
    (folder / SMALL).parent.mkdir(parents=True)
    (folder / SMALL).write_text("model = dict()\n")
    assert config_path(SMALL) == SMALL


@pytest.mark.parametrize(
    "name",
    [
        "configs/detectors/none.py",
        "configs/detectors",
        "configs/../configs/detectors/mask_rcnn_small.py",
        "detectors/mask_rcnn_small.py",
        "/configs/detectors/mask_rcnn_small.py",
        "mask_rcnn_small.py",
        "configs/" + 300 * "x",
    ],
)
def test_every_other_path_stays_as_it_is(folder, name):
    assert config_path(Path(name)) == Path(name)


def test_shipped_experiments_are_listed_with_those_of_the_working_folder_alone(folder):
    own = folder / "configs/experiments"
    own.mkdir(parents=True)
    for name in ("mine", "demo"):
        (own / f"{name}.yaml").touch()
    names = experiment_names(Path("configs/experiments"))
    assert {"mine", "demo", "coco_1"} <= set(names)
    assert names == sorted(set(names))
    assert experiment_names(own) == ["demo", "mine"]


def test_an_unknown_experiment_is_told_with_those_there_are(s4m, tmp_path):
    own = tmp_path / "configs/experiments"
    own.mkdir(parents=True)
    (own / "mine.yaml").touch()
    told = s4m("config", "--exp", "zzz")
    assert told.status == 1
    assert f"no such file: {own}/zzz.yaml; there are: cityscapes_10, " in told.err
    assert ", demo, " in told.err
    assert ", mine" in told.err
    assert "did you mean demo?" in s4m("config", "--exp", "dem").err


def test_a_shipped_experiment_is_found_by_name_and_by_path_and_misses_nothing_but_its_data(s4m):
    for name in ("demo", "configs/experiments/demo.yaml"):
        told = s4m("config", "--exp", name)
        assert told.err.splitlines()[0] == f"{CONFIGS}/experiments/demo.yaml: 4 problems"
        assert all(line.strip().startswith("data.") for line in told.err.splitlines()[1:])


def test_a_shipped_detector_counts_by_its_content_and_not_by_where_it_lies(folder):
    def contents(detector: Path) -> dict[str, str]:
        experiment = load_experiment(path, [f"teacher.detector={detector}"], {})
        return read_contents(experiment, IdentityCache(folder / "memory.sqlite"))

    path = make_experiment_files(folder)
    shipped = {detector: contents(detector) for detector in (SMALL, TWO_BASES)}
    shutil.copytree(CONFIGS, folder / "configs")
    copied = {detector: contents(detector) for detector in (SMALL, TWO_BASES)}
    assert copied == shipped
    assert shipped[SMALL] != shipped[TWO_BASES]
    base = folder / "configs/detectors/mask2former_r50_coco.py"
    base.write_text(base.read_text() + "# other\n")
    assert contents(TWO_BASES) != copied[TWO_BASES]


def test_the_bases_of_a_shipped_detector_are_read_from_any_folder(folder):
    assert not list(folder.iterdir())
    detector = read_detector(TWO_BASES, {})
    assert detector.path == CONFIGS / "detectors" / TWO_BASES.name
    assert detector.content["schedule"] == {"warmup_iterations": 0, "decay": "cosine"}
    assert detector.content["optim_wrapper"]["optimizer"]["lr"] == 1e-4
