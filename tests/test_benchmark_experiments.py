"""The experiments of the public benchmarks, on miniatures in the real layouts: their own commands, the files they name.

Nothing is set over the shipped files, so that every path in them is tried.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.coco.reading import read_coco
from pipeline.detection.config import model_config, read_detector, schedule_config
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import STAGES
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import State
from stages import data_commands
from stages.options import workspace
from stages.runner import run_stage
from tests.test_cityscapes import add_picture
from tests.test_nuclei import add_nuclei
from tests.tiny_coco import tiny_coco

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "configs" / "experiments"
CITYSCAPES = sorted(path.stem for path in EXPERIMENTS.glob("cityscapes_*.yaml"))
LISTS = ("labelled", "unlabelled", "validation")
COCO = sorted(path.stem for path in EXPERIMENTS.glob("coco_*.yaml"))
NUCLEI = sorted(path.stem for path in EXPERIMENTS.glob("dsb2018_*.yaml"))


def test_every_published_figure_has_its_experiment_and_the_other_way_round() -> None:
    published = (ROOT / "docs" / "method.md").read_text().split("## Published figures")[1]
    rows = re.findall(r"(?m)^\| (\w*) ?\| (\d+) % \|.*\| `(\w+)` \|$", published)
    assert len({name for *_, name in rows}) == len(rows) == 8
    assert sorted(name for *_, name in rows) == sorted(CITYSCAPES + COCO)
    assert all(name.rpartition("_")[2] == percent for _, percent, name in rows)
    assert [(dataset, name) for dataset, _, name in rows if dataset] == [
        ("Cityscapes", "cityscapes_5"),
        ("COCO", "coco_1"),
    ]
    assert NUCLEI == ["dsb2018_1", "dsb2018_10", "dsb2018_2"]


# As docs/method.md says under "What is as published in these experiments, and what is not".
@pytest.mark.parametrize(
    ("name", "iterations", "batches", "distortion", "placement", "composites"),
    [(name, 90_000, (4, 16, 16), 1, "in-place", 1) for name in CITYSCAPES]
    + [(name, 368_750, (16, 12, 12), 0, "moved", 2) for name in COCO],
)
def test_a_published_experiment_has_the_settings_that_the_documentation_names(
    name: str, iterations: int, batches: tuple[int, int, int], distortion: int, placement: str, composites: int
) -> None:
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml", (), {}, check_files=False)
    teacher, student, augment = experiment.teacher, experiment.student, experiment.augment
    assert (teacher.iterations, student.rounds, student.iterations) == (iterations, 2, iterations // 2)
    assert (teacher.batch_size, student.batch_size, student.unlabelled_images) == batches
    assert (teacher.repeat_threshold, student.repeat_threshold) == (0, 10)
    assert (teacher.labelled_distortion, student.labelled_distortion) == (distortion, distortion)
    assert (experiment.sam.model, experiment.refine.preset) == ("vit_h", "best")
    assert (augment.mode, augment.views, augment.placement) == ("on-the-fly", True, placement)
    assert augment.min_area_px == 3000
    assert (student.mixture.pseudo, student.mixture.composites) == (1, composites)


def test_the_experiment_to_choose_settings_on_differs_from_the_demo_in_its_images_alone() -> None:
    demo, tuning = (
        load_experiment(EXPERIMENTS / f"{name}.yaml", (), {}, check_files=False) for name in ("demo", "demo-tuning")
    )
    assert tuning.model_copy(update={"name": "demo", "data": demo.data}) == demo
    assert str(tuning.data).replace("demo-tuning", "demo") == str(demo.data) != str(tuning.data)


@pytest.mark.parametrize(
    ("name", "batches"), [("demo", (3, 5)), ("demo-smoke", (1, 2))] + [(n, (3, 5)) for n in NUCLEI]
)
def test_a_small_experiment_trains_on_a_third_of_each_kind(name: str, batches: tuple[int, int]) -> None:
    student = load_experiment(EXPERIMENTS / f"{name}.yaml", (), {}, check_files=False).student
    assert (student.batch_size, student.unlabelled_images) == batches
    assert student.mixture.pseudo == student.mixture.composites > 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run commands in, with the shipped configs and miniatures of all datasets below datasets/."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "configs").symlink_to(ROOT / "configs")
    make_cityscapes(folder / "datasets" / "cityscapes")
    make_coco(folder / "datasets" / "coco")
    make_nuclei(folder / "datasets" / "dsb2018" / "stage1_train")
    return folder


def make_cityscapes(root: Path) -> None:
    """20 pictures to train on and 2 to measure on, of the real size."""
    labels = np.full((1024, 2048), 7, np.uint16)
    labels[200:300, 100:180] = 26_000
    labels[400:500, 900:940] = 24_001
    for number in range(20):
        add_picture(root, "train", f"aachen_{number:06}_000019", labels)
    for number in range(2):
        add_picture(root, "val", f"munster_{number:06}_000019", labels)


def make_coco(root: Path) -> None:
    """100 pictures to train on and 2 to measure on."""
    for split, images in (("train2017", 100), ("val2017", 2)):
        made = tiny_coco(root / "made" / split, images=images, instances=2)
        made.image_root.rename(root / split)
        target = root / "annotations" / f"instances_{split}.json"
        target.parent.mkdir(exist_ok=True)
        made.annotations.rename(target)


def make_nuclei(root: Path) -> None:
    """100 pictures to train on and the 50 that are measured on unless said otherwise, and one of another size."""
    for number in range(150):
        add_nuclei(root, f"{number:064x}", (256, 256), 2)
    add_nuclei(root, f"{150:064x}", (320, 256), 2)


@pytest.fixture
def here(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("S4M_WORK", str(checkout / "work"))
    return checkout


def prepared(name: str) -> Experiment:
    """A shipped experiment, after the `s4m data` commands of its own comment."""
    path = Path("configs/experiments") / f"{name}.yaml"
    commands = re.findall(r"^# +\.venv/bin/s4m data (.+)$", path.read_text(), re.MULTILINE)
    assert len(commands) == 1
    dataset = name.rpartition("_")[0]
    if not Path("datasets", dataset, "train.json").exists():  # one conversion for all of a dataset
        done = CliRunner().invoke(data_commands.app, shlex.split(commands[0]))
        assert done.exit_code == 0, done.output
    return load_experiment(path, (), {})


@pytest.mark.parametrize("name", [*CITYSCAPES, *COCO, *NUCLEI])
def test_a_benchmark_splits_as_its_name_says(name: str, here: Path) -> None:
    experiment = prepared(name)
    run_stage(experiment, "split", 1)
    space = workspace(experiment)
    lists = {each: read_coco(space.result("split") / f"{each}.json", annotations_required=False) for each in LISTS}
    images = 20 if name in CITYSCAPES else 100
    labelled = images * int(name.rpartition("_")[2]) // 100
    assert {each: len(dataset.images) for each, dataset in lists.items()} == {
        "labelled": labelled,
        "unlabelled": images - labelled,
        "validation": 50 if name in NUCLEI else 2,
    }
    assert len(lists["labelled"].annotations) == 2 * labelled
    assert not lists["unlabelled"].annotations
    standing = {key: space.status(key).state for key in space.nodes}
    if name not in NUCLEI:
        # Composites are made while training.
        assert {standing.pop("augment"), standing.pop("augment-2")} == {State.SKIPPED}
    assert standing.pop("adapt") is State.SKIPPED  # off by default
    assert State.SKIPPED not in standing.values()


@pytest.mark.parametrize("names", [CITYSCAPES, COCO, NUCLEI], ids=lambda names: names[0])
def test_of_a_datasets_experiments_only_the_labelled_images_differ(names: list[str], here: Path) -> None:
    experiments = [prepared(name) for name in names]
    spaces = [workspace(experiment) for experiment in experiments]
    made = [space.fingerprints for space in spaces]
    for space, prints in zip(spaces, made, strict=True):
        again = ["predict-2", "refine-2", "augment-2", "train-student-2"]  # a second round
        assert sorted(space.nodes) == sorted([*STAGES, *again])
        assert [key for key in space.nodes if key in STAGES] == list(STAGES)
        assert prints.keys() == {key for key, node in space.nodes.items() if not node.skipped}
        for key, fingerprint in prints.items():
            assert fingerprint.upstream == {each: prints[each].id for each in space.nodes[key].made_from}
    for key, first in made[0].items():
        assert len({prints[key].id for prints in made}) == len(names), key
        for prints in made:
            assert but(prints[key].settings, "data.percent") == but(first.settings, "data.percent")
            assert but(prints[key].inputs, "data.labelled_list") == but(first.inputs, "data.labelled_list")


def but(values: Mapping[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != left_out}


@pytest.mark.parametrize("name", [*CITYSCAPES, *COCO])
def test_a_benchmark_has_the_papers_detector(name: str, here: Path) -> None:
    experiment = load_experiment(Path("configs/experiments") / f"{name}.yaml", (), {}, check_files=False)
    detector = read_detector(experiment.teacher.detector, experiment.teacher.overrides)
    model = model_config(detector, 8)
    assert (model["type"], model["backbone"]["depth"]) == ("s4m.Mask2Former", 50)
    assert schedule_config(detector, experiment.teacher.iterations)[-1]["end"] == experiment.teacher.iterations
    student = experiment.student
    for size in (experiment.teacher.batch_size, student.batch_size, student.unlabelled_images):
        assert size % 4 == 0  # as many GPUs as their comments say


def test_the_releases_lists_of_cityscapes_can_be_used(here: Path) -> None:
    """As docs/method.md says: without the ending of their label files."""
    prepared("cityscapes_5")
    Path("perc_5.txt").write_text("aachen_000007_000019\n")
    path = Path("configs/experiments/cityscapes_5.yaml")
    experiment = load_experiment(path, ["data.percent=null", "data.labelled_list=perc_5.txt"], {})
    run_stage(experiment, "split", 1)
    labelled = read_coco(workspace(experiment).result("split") / "labelled.json")
    assert [image.file_name for image in labelled.images] == ["aachen/aachen_000007_000019_leftImg8bit.png"]


@pytest.mark.parametrize(("name", "images"), [("demo", 400), ("cityscapes_10", 2_975), ("coco_10", 118_287)])
def test_the_saving_that_the_documentation_names_is_that_of_the_experiment(name: str, images: int) -> None:
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml", (), {}, check_files=False)
    student = experiment.student
    online = student.unlabelled_images * student.iterations * student.rounds
    # COCO's published lists round down, our own split to the nearest.
    offline = student.rounds * (images - (images // 10 if name == "coco_10" else round(images / 10)))
    text = (ROOT / "docs" / "method.md").read_text()
    assert re.search(rf"`{name}` .* = {online:,.0f} \| {offline:,} \| {online / offline:.0f} \|", text)
