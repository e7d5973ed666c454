"""Experiment files: what is read, and the exact words for everything that can be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.detection.settings import TeacherSettings
from pipeline.errors import ExperimentError
from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.refinement.settings import RefineSettings
from pipeline.workflow.describe import keys_of
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment, to_yaml
from pipeline.workflow.starter import starter_text
from pipeline.workflow.yaml12 import YamlError, parse_yaml

EXPERIMENTS = Path("configs/experiments")
DATA = """
data:
  annotated: {annotations: set.json, images: .}
  percent: 10
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the few files that a complete experiment names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.json").write_text("{}")
    detector = tmp_path / "configs/detectors/mask_rcnn_small.py"
    detector.parent.mkdir(parents=True)
    detector.write_text("model = dict()\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(write(folder, text), overrides, {})
    return [str(problem) for problem in caught.value.problems]


def test_a_file_with_data_alone_is_an_experiment(folder):
    experiment = load_experiment(write(folder, DATA), (), {})
    assert experiment.name == "mine"
    assert experiment.data.percent == 10
    assert experiment.teacher.distillation_weight == 1.0


def test_an_experiment_is_frozen(folder):
    experiment = load_experiment(write(folder, DATA), (), {})
    with pytest.raises(ValueError, match="frozen"):
        experiment.refine.points = 7  # type: ignore[misc]


TABLE = [
    ("refine: {pionts: 5}", "refine.pionts: unknown key; did you mean refine.points?"),
    ("refin: {points: 5}", "refin: unknown key; did you mean refine?"),
    ("points: 5", "points: unknown key; did you mean refine.points?"),
    (
        "sam: {qqq: 1}",
        "sam.qqq: unknown key; known keys: model, checkpoint, input_side",
    ),
    ("refine: {points: 3.5}", "refine.points: given 3.5; expected a whole number from 0 to 64"),
    ("refine: {points: '3'}", 'refine.points: given "3"; expected a whole number from 0 to 64'),
    ("refine: {points: true}", "refine.points: given true; expected a whole number from 0 to 64"),
    ("refine: {points: 65}", "refine.points: given 65; expected a whole number from 0 to 64"),
    ("refine: {points: null}", "refine.points: given null; expected a whole number from 0 to 64"),
    ("refine: 5", "refine: given 5; expected a section with " + ", ".join(RefineSettings.model_fields)),
    ("refine: {gate: off}", 'refine.gate: given "off"; expected one of none, fixed, calibrated, teacher'),
    ("refine: {preset: bset}", 'refine.preset: given "bset"; expected one of best, s4m, samrefiner'),
    ("refine: {mask_prompt: yes}", 'refine.mask_prompt: given "yes"; expected true or false'),
    (
        "teacher: {learning_rate: 0}",
        "teacher.learning_rate: given 0; expected a number above 0 and at most 100 or null",
    ),
    (
        "teacher: {learning_rate: .nan}",
        "teacher.learning_rate: given NaN; expected a number above 0 and at most 100 or null",
    ),
    ("teacher: {iterations: 0}", "teacher.iterations: given 0; expected a whole number of at least 1"),
    (
        "student: {ema_momentum: 1}",
        "student.ema_momentum: given 1; expected a number of at least 0 and below 1",
    ),
    ("augment: {scale: [0.8]}", "augment.scale: missing; expected a list of 2, each a number above 0"),
    ("augment: {scale: [0.8, x]}", 'augment.scale: given "x"; expected a list of 2, each a number above 0'),
    ("augment: {scale: [2, 1]}", "augment.scale: given [2.0, 1.0]; expected the smaller number first"),
    (
        "augment: {decisions: [sam, me]}",
        'augment.decisions: given "me"; expected a list, each one of sam, teacher',
    ),
    (
        "augment: {views: true}",
        "augment.views: true needs augment.mode on-the-fly: composites that are written once are of whole images",
    ),
    ("student: {instance_weight: score}", 'student.instance_weight: given "score"; it is called class now'),
    ("student: {instance_weight: mask_score}", 'student.instance_weight: given "mask_score"; it is called mask now'),
    (
        "student: {instance_weight: area}",
        'student.instance_weight: given "area"; expected one of none, class, mask, product, gate',
    ),
    ("compute: {scheduler: 5}", "compute.scheduler: given 5; expected text or null"),
    (
        "name: ../../etc",
        "name: given \"../../etc\"; expected letters, digits, '.', '_' and '-', at most 64 of them",
    ),
    (
        "student: {mixture: {pseudo: 0, composites: 0}}",
        "student.mixture: both amounts are 0; to train without them set student.unlabelled_batch_size to 0",
    ),
    (
        "student: {batch_size: 0, unlabelled_batch_size: 0}",
        "student.batch_size: there are no images in a step; raise batch_size or unlabelled_batch_size",
    ),
    ("teacher: {batch_size: 0}", "teacher.batch_size: given 0; expected a whole number of at least 1"),
    (
        "student: {unlabelled_batch_size: -1}",
        "student.unlabelled_batch_size: given -1; expected a whole number of at least 0 or null",
    ),
    (
        "teacher: {labelled_distortion: 2}",
        "teacher.labelled_distortion: given 2; expected a number from 0 to 1",
    ),
    (
        "refine: {preset: s4m, points: 0}",
        "refine: no prompt for SAM; give points, center_point, box or mask_prompt",
    ),
    (
        "refine: {gate: calibrated}",
        "refine.gate: calibrated needs labelled images to be fitted on; set teacher.held_out, say 0.2",
    ),
    (
        "sam: {model: vit_b, input_side: 256}",
        "sam.input_side: only sam_tiny takes other sizes, sam.model is vit_b",
    ),
]


@pytest.mark.parametrize(("text", "message"), TABLE, ids=[text for text, _ in TABLE])
def test_a_problem_is_told_in_exact_words(folder, text, message):
    assert problems(folder, f"{DATA}\n{text}\n") == [message]


DATA_TABLE = [
    (
        "data: {}",
        [
            "data.labelled: missing; give data.labelled and data.unlabelled, or data.annotated",
            "data.unlabelled: missing; give data.labelled and data.unlabelled, or data.annotated",
        ],
    ),
    (
        "name: x",
        [
            "data: missing; expected a section with labelled, unlabelled, validation, annotated, percent, seed, "
            "labelled_list"
        ],
    ),
    (
        "data: {annotated: {annotations: set.json, images: .}}",
        ["data.annotated: needs exactly one of data.percent and data.labelled_list to split it"],
    ),
    (
        "data: {labelled: {annotations: set.json, images: .}, unlabelled: {images: .}, percent: 5}",
        ["data.percent: splits data.annotated, which is not given"],
    ),
    (
        "data: {annotated: {annotations: set.json, images: .}, percent: 5, unlabelled: {images: .}}",
        ["data.annotated: given beside data.labelled or data.unlabelled; keep one of the two ways"],
    ),
    (
        "data: {annotated: {annotations: set.json, images: .}, percent: 5, labelled_list: set.json}",
        ["data.annotated: needs exactly one of data.percent and data.labelled_list to split it"],
    ),
    (
        "data: {labelled: {annotations: set.json}, labelled_list: set.json, seed: 1}",
        [
            "data.labelled.images: missing; expected the path of a folder",
            "data.unlabelled: missing; give data.labelled and data.unlabelled, or data.annotated",
            "data.labelled_list: splits data.annotated, which is not given",
            "data.seed: belongs to data.percent, which is not given",
        ],
    ),
    (
        "data: {annotated: {annotations: set.json, imagse: .}}",
        [
            "data.annotated.images: missing; expected the path of a folder",
            "data.annotated.imagse: unknown key; did you mean data.annotated.images?",
            "data.annotated: needs exactly one of data.percent and data.labelled_list to split it",
        ],
    ),
    (
        "data: {annotated: {annotations: set.json, images: .}, labelled_list: set.json, seed: 1}",
        ["data.seed: belongs to data.percent, which is not given"],
    ),
    (
        "data: {anotated: {annotations: set.json, images: .}, percent: 5}",
        ["data.anotated: unknown key; did you mean data.annotated?"],
    ),
    (
        "data: 5",
        [
            "data: given 5; expected a section with labelled, unlabelled, validation, annotated, percent, seed, "
            "labelled_list"
        ],
    ),
    (
        "data: {annotated: {annotations: set.json, images: .}, percent: 100}",
        ["data.percent: given 100; expected a number above 0 and below 100"],
    ),
    (
        "data: {annotated: {images: .}, percent: 5}",
        ["data.annotated.annotations: missing; expected the path of a file"],
    ),
]


@pytest.mark.parametrize(("text", "messages"), DATA_TABLE, ids=[text for text, _ in DATA_TABLE])
def test_the_two_ways_to_name_the_images_are_told_apart(folder, text, messages):
    assert problems(folder, text) == messages


def test_missing_files_are_named_with_the_key_that_points_to_them(folder):
    text = "data:\n  annotated: {annotations: no.json, images: nowhere}\n  percent: 10\n"
    assert problems(folder, text, "student.detector=no.py") == [
        f"data.annotated.annotations: no such file: {folder}/no.json",
        f"data.annotated.images: no such folder: {folder}/nowhere",
        f"student.detector (set over the file): no such file: {folder}/no.py",
    ]


def test_all_problems_are_told_at_once_whatever_their_kind(folder):
    text = (
        "data:\n  annotated: {annotations: no.json, images: .}\n"
        "refine: {pionts: 5, passes: 9}\nteacher: {iterations: -1}\n"
    )
    found = problems(folder, text, "student.rounds=-1", "nonsense")
    assert {line.partition(":")[0] for line in found} == {
        "cannot set 'nonsense'",
        "student.rounds (set over the file)",
        "refine.pionts",
        "refine.passes",
        "teacher.iterations",
        "data.annotated.annotations",
        "data.annotated",
    }


def test_an_unset_variable_in_a_path_is_named(folder, monkeypatch):
    monkeypatch.setenv("SET_FOLDER", str(folder))
    text = "data:\n  annotated: {annotations: $SET_FOLDER/set.json, images: $NO_SUCH/x}\n  percent: 10\n"
    assert problems(folder, text) == [
        'data.annotated.images: given "$NO_SUCH/x", which names the environment variable $NO_SUCH, which is not set',
    ]
    experiment = load_experiment(write(folder, text.replace("$NO_SUCH/x", "$SET_FOLDER")), (), {})
    assert experiment.data.annotated.annotations == folder / "set.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [", "line 1, column 8: not YAML: expected the node content, but found '<stream end>'"),
        ("data: {}\ndata: {}", "line 2: 'data' is given twice"),
        ("just text", 'given "just text"; expected keys and values, `data:` among them'),
        ("", "given null; expected keys and values, `data:` among them"),
        ("a: &x 1\nb: *x", "line 2: aliases (*name) are not used here"),
        ("a: !!python/object:os.system {}", "line 1, column 4: not YAML: could not determine a constructor"),
        ("[" * 1000, "nested deeper than 50 levels"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(folder, text, message):
    (found,) = problems(folder, text)
    assert found.startswith(message)


def test_a_missing_experiment_file_is_named(folder):
    with pytest.raises(ExperimentError, match=r"no such file: .*/none\.yaml"):
        load_experiment(folder / "none.yaml", (), {})
    (folder / "cityscapes.yaml").touch()
    with pytest.raises(ExperimentError, match=r"citiscapes\.yaml; did you mean cityscapes\?"):
        load_experiment(folder / "citiscapes.yaml", (), {})


def test_values_set_over_the_file_win_over_presets_and_file(folder):
    path = write(folder, DATA + "refine: {preset: s4m, points: 4}\n")
    experiment = load_experiment(path, ["refine.points=5", "augment.scale=[0.5, 2]", "student.mixture.pseudo=3"], {})
    assert experiment.refine.points == 5
    assert experiment.augment.scale == (0.5, 2.0)
    assert experiment.student.mixture.pseudo == 3.0


def test_a_detector_override_keeps_its_dots(folder):
    experiment = load_experiment(write(folder, DATA), ["teacher.overrides.model.backbone.depth=34"], {})
    assert experiment.teacher.overrides == {"model.backbone.depth": 34}


def test_the_environment_names_the_store_but_the_command_line_wins(folder):
    path = write(folder, DATA + "store: here\n")
    assert load_experiment(path, (), {}).store == Path("here")
    assert load_experiment(path, (), {"S4M_STORE": "/there"}).store == Path("/there")
    assert load_experiment(path, ["store=/mine"], {"S4M_STORE": "/there"}).store == Path("/mine")


@pytest.mark.parametrize("preset", REFINE_PRESETS)
def test_a_preset_fills_in_what_is_not_given(folder, preset):
    path = write(folder, DATA + f"refine: {{preset: {preset}, passes: 3}}\n")
    refine = load_experiment(path, (), {}).refine
    expected = {**REFINE_PRESETS[preset], "passes": 3, "preset": preset}
    assert {key: getattr(refine, key) for key in expected} == expected
    assert refine == RefineSettings(preset=preset, passes=3)


def test_the_paper_recipe_is_three_points_and_the_highest_predicted_iou(folder):
    refine = load_experiment(write(folder, DATA + "refine: {preset: s4m}\n"), (), {}).refine
    assert (refine.points, refine.choice, refine.box, refine.mask_prompt, refine.gate) == (
        3,
        "predicted_iou",
        "none",
        False,
        "none",
    )


def test_a_resolved_experiment_reads_back_to_itself(folder):
    experiment = load_experiment(write(folder, DATA + "refine: {preset: samrefiner}\n"), (), {})
    again = folder / "again.yaml"
    again.write_text(to_yaml(experiment))
    assert load_experiment(again, (), {}) == experiment


def test_a_starter_experiment_is_valid_once_its_paths_are_set(folder):
    (folder / "images").mkdir()
    text = starter_text("mine", EXPERIMENTS).replace("path/to/unlabelled", "images").replace("path/to/images", "images")
    text = re.sub(r"path/to/\w+.json", "set.json", text)
    as_written = load_experiment(write(folder, text), (), {})
    assert as_written.teacher == TeacherSettings()
    # Every default, spelt out as the starter shows it, is the default.
    data, _, rest = text.partition("# Below")
    spelt_out = data + "# Below" + re.sub(r"(?m)^( *)#(?=\w)", r"\1", rest)
    assert load_experiment(write(folder, spelt_out), (), {}) == as_written


def test_a_starter_names_every_key_of_the_schema():
    text = starter_text("mine", EXPERIMENTS)
    leaves = {key.rpartition(".")[2] for key in keys_of(Experiment)} - {"name"}
    assert {leaf for leaf in leaves if f"{leaf}:" not in text} == set()


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
def test_a_starter_with_an_unusable_name_is_refused(name):
    with pytest.raises(ExperimentError, match="expected letters, digits"):
        starter_text(name, EXPERIMENTS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("012", 12),
        ("0x10", 16),
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
        ("~", None),
        ("", None),
        (".5", 0.5),
        ("'5'", "5"),
        ("1_000", "1_000"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
    ],
)
def test_yaml_scalars_are_what_they_look_like(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_a_key_must_be_plain_text():
    with pytest.raises(YamlError, match="a key must be text"):
        parse_yaml("? [a, b]\n: 1")
