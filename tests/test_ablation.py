"""The ablation: what each cell sets, what is run and what is found made, what the tables say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from pipeline.ablation import tables, writing
from pipeline.ablation.cells import CELLS, Unit, cells_of, overrides_of
from pipeline.ablation.figures import Ablation, CellFigures, SeedFigures, Spread, collect, spread
from pipeline.ablation.running import make_units, run_units
from pipeline.coco.reading import read_coco
from pipeline.datasets.lists import write_lists
from pipeline.errors import StageError
from pipeline.evaluation import results as ev
from pipeline.workflow.graph import Node, plan
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import ABLATION_FIGURES, ablation_folder, settings_digest, work_root
from stages import ablation_commands
from stages.options import workspace
from tests.test_report_page import Page
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import POOL, make_experiment_files
from tests.tiny_results import make_evaluation, without

APS = {
    "supervised": 0.20,
    "sd": 0.22,
    "self-training": 0.24,
    "pr-s4m": 0.26,
    "pr-best": 0.28,
    "gate": 0.29,
    "arp": 0.30,
    "arp-unrefined": 0.23,
    "paper": 0.27,
    "all": 0.31,
    "per-class": 0.32,
    "class-check": 0.32,
    "uncertain-pixels": 0.32,
    "fine-tuning": 0.33,
    "ceiling": 0.40,
}


@pytest.fixture
def exp(tmp_path, monkeypatch) -> str:
    """An experiment with validation images."""
    return _prepare(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory) -> Ablation:
    """All cells with two seeds, of an experiment that has a recipe of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        units = units_of(_prepare(tmp_path_factory.mktemp("ablation"), monkeypatch), ["refine.points=5"], 2)
        assert run_units(units, Fake(), nothing) == []
        return collect("tiny", (), units)


def _prepare(folder: Path, monkeypatch) -> str:
    monkeypatch.setenv("S4M_WORK", str(folder / "work"))
    monkeypatch.setenv("S4M_STORE", str(folder / "stores"))
    tiny_coco(folder / "validation", images=2, seed=1)
    validation = {key: f"validation/{value}" for key, value in POOL["annotated"].items()}
    return str(make_experiment_files(folder, {"data": POOL | {"validation": validation}}))


class Fake:
    """Seals a result in the place of a stage. fails: units and nodes, as `sd, seed 0: train-teacher`, and how."""

    def __init__(self, fails: dict[str, object] | None = None) -> None:
        self.ran: list[str] = []
        self._fails = fails or {}

    def __call__(self, unit: Unit, node: Node) -> str:
        name = f"{unit}: {node.key}"
        self.ran.append(name)
        failure = self._fails.get(name, "")
        if isinstance(failure, BaseException):
            raise failure
        if failure:
            return str(failure)
        space, fingerprint = unit.space, unit.space.fingerprints[node.key]
        folder = space.store.partial(fingerprint.stage, fingerprint.id)
        folder.mkdir(parents=True)
        (folder / "out").write_text(node.key)
        if node.stage == "evaluate":
            ev.write_evaluation(folder / ev.EVALUATION, _evaluation(unit))
        summary = {"encoded images": 5} if node.stage == "refine" else {}
        space.store.seal(fingerprint, space.experiment.name, 60.0, summary, {})
        return ""


def _evaluation(unit: Unit) -> ev.Evaluation:
    """A teacher, and a student where there is one, with the figures of APS; a point more with every seed."""
    truth = read_coco(unit.space.experiment.data.labelled_source.annotations)
    evaluation = make_evaluation(truth, 0.0)
    models = evaluation.models if unit.space.experiment.student.rounds else evaluation.models[:1]
    ap = APS[unit.cell.key] + 0.01 * unit.seed
    last = msgspec.structs.replace(models[-1], mask=msgspec.structs.replace(models[-1].mask, ap=ap))
    evaluation = msgspec.structs.replace(evaluation, models=(*models[:-1], last))
    return evaluation if unit.space.experiment.student.rounds else without(evaluation, "pseudo_labels")


def nothing() -> None:
    pass


def units_of(exp: str, overrides: list[str], seeds: int, *cells: str) -> list[Unit]:
    def open_workspace(settings, trust_images):
        return workspace(load_experiment(Path(exp), settings), trust_images=trust_images)

    return make_units(open_workspace, overrides, seeds, cells)


def run(exp: str, fake: Fake, *cells: str, seeds: int = 1) -> tuple[list[Unit], list[str]]:
    units = units_of(exp, [], seeds, *cells)
    return units, run_units(units, fake, nothing)


def experiment_of(exp: str, cell: str, *overrides: str):
    experiment = load_experiment(Path(exp), overrides)
    return load_experiment(Path(exp), [*overrides, *overrides_of(CELLS[cell], experiment, 4)])


# ---- cells ------------------------------------------------------------------------------------------


def test_every_cell_differs_from_the_others_and_takes_its_seed_and_name(exp):
    units = units_of(exp, ["augment.copies=2", "refine.points=5"], 2)
    assert [unit.cell.key for unit in units] == list(CELLS) * 2
    assert len({unit.space.fingerprints["evaluate"].id for unit in units}) == len(units)
    seeded = experiment_of(exp, "all")
    sections = (seeded.data, seeded.distill, seeded.teacher, seeded.refine, seeded.augment, seeded.student)
    assert [section.seed for section in sections] == [4] * 6
    assert seeded.name == "tiny-all-4"


def test_parts_are_switched_on_one_by_one(exp):
    weight = {key: experiment_of(exp, key).teacher.distillation_weight for key in CELLS}
    assert {key for key, value in weight.items() if value == 0} == {"supervised", "ceiling"}
    assert {key for key in CELLS if experiment_of(exp, key).student.rounds == 0} == {"supervised", "sd", "ceiling"}
    gates = {key: experiment_of(exp, key).refine.gate for key in CELLS}
    assert {key for key, gate in gates.items() if gate == "teacher"} == {"self-training", "arp-unrefined"}
    assert {key for key, gate in gates.items() if gate == "fixed"} >= {"gate", "arp", "all"}
    modes = {key: experiment_of(exp, key).augment.mode for key in CELLS}
    assert {key for key in ("self-training", "pr-s4m", "pr-best", "gate") if modes[key] == "none"} == {
        "self-training",
        "pr-s4m",
        "pr-best",
        "gate",
    }
    assert modes["arp"] == modes["arp-unrefined"] == "materialised"
    assert experiment_of(exp, "arp-unrefined").augment.decisions == ("teacher",)


@pytest.mark.parametrize("mode", ["on-the-fly", "none"])
def test_composites_of_views_stay_so_in_all_cells(exp, mode):
    views = (f"augment.mode={mode}", "augment.views=true")
    for cell in ("arp", "arp-unrefined"):
        augment = experiment_of(exp, cell, *views).augment
        assert (augment.mode, augment.views) == ("on-the-fly", True)
    assert experiment_of(exp, "gate", *views).augment.mode == "none"


def test_a_cell_has_its_preset_whatever_the_experiment_says_of_refinement(exp):
    own = ("refine.points=9", "refine.mask_prompt=true", "refine.fill_holes=true")
    paper = experiment_of(exp, "pr-s4m", *own).refine
    assert (paper.points, paper.mask_prompt, paper.fill_holes, paper.preset) == (3, False, False, "s4m")
    assert experiment_of(exp, "all", *own).refine.points == 9


def test_the_papers_cell_is_the_paper_whatever_the_experiment_says(exp):
    own = ("refine.points=9", "predict.flip_test=true", "student.instance_weight=class", "distill.prompt=point-and-box")
    paper = experiment_of(exp, "paper", *own)
    refine = paper.refine
    assert (refine.preset, refine.points, refine.gate, refine.choice) == ("s4m", 3, "none", "predicted_iou")
    assert (paper.predict.score_threshold, paper.predict.flip_test, paper.distill.prompt) == (0.7, False, "point")
    assert (paper.augment.mode, paper.augment.views) == ("on-the-fly", True)
    assert (paper.student.start, paper.student.pseudo_weight, paper.student.instance_weight) == ("scratch", 2, "none")
    assert paper.student.iterations == experiment_of(exp, "all").student.iterations


def test_what_an_experiment_leaves_out_is_there_in_the_cells_that_measure_it(exp):
    bare = ("teacher.distillation_weight=0", "augment.mode=none", "student.mixture.composites=0", "student.rounds=0")
    assert experiment_of(exp, "sd", *bare).teacher.distillation_weight == 1
    pasted = experiment_of(exp, "arp", *bare)
    assert pasted.student.rounds == 1
    assert not plan(pasted)["augment"].skipped
    assert not plan(experiment_of(exp, "arp-unrefined", *bare))["augment"].skipped
    assert experiment_of(exp, "all", *bare).student.rounds == 0


def test_fine_tuning_is_measured_at_the_same_number_of_steps(exp):
    def steps(*overrides: str) -> tuple[int, int]:
        student = experiment_of(exp, "fine-tuning", *overrides).student
        return student.iterations, student.finetune_iterations

    assert steps("student.iterations=1600") == (1440, 160)
    assert steps("student.iterations=1") == (1, 1)
    assert steps("student.iterations=800", "student.finetune_iterations=50") == (800, 50)
    ceiling = experiment_of(exp, "ceiling", "student.iterations=800", "student.finetune_iterations=50")
    assert ceiling.teacher.iterations == 850


def test_the_ceiling_learns_from_every_label_and_split_takes_it(exp, tmp_path):
    ceiling = experiment_of(exp, "ceiling", "student.iterations=77", "refine.gate=calibrated", "teacher.held_out=0.2")
    assert (ceiling.teacher.iterations, ceiling.teacher.held_out) == (77, 0)
    counts = write_lists(ceiling.data, tmp_path / "lists")
    assert (counts.labelled, counts.unlabelled, counts.validation) == (6, 2, 2)


def test_a_teacher_is_trained_where_labels_come_from_elsewhere(exp, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    own = (f"predict.results={tmp_path / 'results.json'}", "student.start=scratch")
    assert not plan(experiment_of(exp, "supervised", *own))["train-teacher"].skipped


def test_bad_input_is_refused_with_what_to_do(exp):
    with pytest.raises(StageError, match=r"^nonsense, other: no such cell; there are supervised, sd, "):
        units_of(exp, [], 1, "sd", "nonsense", "other")
    with pytest.raises(StageError, match="--seeds 0: an ablation needs one seed or more"):
        units_of(exp, [], 0)
    with pytest.raises(StageError, match=r"set data\.validation to images with annotations"):
        units_of(exp, ["data.validation=null"], 1)


def test_without_one_annotated_set_there_is_no_ceiling(exp, tmp_path):
    apart = [
        "data.annotated=null",
        "data.percent=null",
        f"data.labelled.annotations={tmp_path / 'annotations.json'}",
        f"data.labelled.images={tmp_path / 'images'}",
        f"data.unlabelled.images={tmp_path / 'validation' / 'images'}",
    ]
    experiment = load_experiment(Path(exp), apart)
    assert "ceiling" not in [cell.key for cell in cells_of(experiment)]
    with pytest.raises(StageError, match=r"known only if data\.annotated gives them"):
        cells_of(experiment, ["ceiling"])


# ---- running ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_made_twice_and_a_second_run_makes_nothing(exp):
    fake = Fake()
    units, failures = run(exp, fake, seeds=2)
    assert failures == []
    assert all(unit.is_made("evaluate") for unit in units)
    assert fake.ran[:3] == [f"supervised, seed 0: {key}" for key in ("split", "train-teacher", "evaluate")]
    first_student = [f"self-training, seed 0: {key}" for key in ("predict", "refine", "train-student", "evaluate")]
    assert [each for each in fake.ran if each.startswith("self-training, seed 0")] == first_student
    # Gate and ARP share all but composites and what comes after them; ARP unrefined has self-training's labels.
    for cell in ("arp", "arp-unrefined"):
        own = [each.split(": ")[1] for each in fake.ran if each.startswith(f"{cell}, seed 1")]
        assert own == ["augment", "train-student", "evaluate"]
    again = Fake()
    run(exp, again, seeds=2)
    assert again.ran == []


def test_an_experiment_that_is_the_last_cell_is_found_made(exp):
    fake = Fake()
    run(exp, fake, "arp", "all")
    assert not [each for each in fake.ran if each.startswith("all")]


def test_results_in_use_are_pointed_at_and_so_not_pruned(exp):
    units, _ = run(exp, Fake(), "supervised", "sd")
    assert all(unit.space.is_done(key) for unit in units for key in unit.nodes)


def test_a_failure_stops_its_own_cell_and_those_that_need_the_same_result(exp):
    fake = Fake({"sd, seed 0: train-teacher": "failed", "sd, seed 1: evaluate": "failed"})
    units, failures = run(exp, fake, "supervised", "sd", "gate", seeds=2)
    assert failures == [
        "sd, seed 0: train-teacher failed",
        "gate, seed 0: train-teacher failed, with sd, seed 0",
        "sd, seed 1: evaluate failed",
    ]
    assert "gate, seed 0: train-teacher" not in fake.ran
    assert [str(unit) for unit in units if unit.is_made("evaluate")] == [
        "supervised, seed 0",
        "supervised, seed 1",
        "gate, seed 1",
    ]


def test_a_stage_that_made_something_else_is_a_failure(exp):
    units = units_of(exp, [], 1, "supervised")
    assert "its inputs changed" in run_units(units, lambda unit, node: "", nothing)[0]


def test_a_stage_runs_as_its_own_command(exp, monkeypatch):
    commands: list[list[str]] = []
    statuses = iter([0, 1, -9, 130])
    monkeypatch.setattr(ablation_commands, "_wait", lambda command: commands.append(command) or next(statuses))
    unit = units_of(exp, ["augment.copies=2"], 1, "all")[0]
    process = ablation_commands.StageProcess(exp)
    node = unit.space.nodes["refine"]
    assert process(unit, node) == ""
    assert commands[0][3:8] == ["refine", "--exp", exp, "--set", "augment.copies=2"]
    assert f'name="tiny-{settings_digest(["augment.copies=2"])}-all-0"' in commands[0]
    assert process(unit, node) == "failed (its message is above)"
    assert process(unit, node) == "was ended by signal 9"
    with pytest.raises(KeyboardInterrupt):
        process(unit, node)


@pytest.mark.slow
def test_a_stage_is_told_to_stop_and_may_put_its_things_in_order(tmp_path):
    """As on a server: SIGTERM comes to the one process that is known, and the stage ends before it does."""
    code = (
        "import sys\nfrom stages.stopping import sigterm_as_interrupt, Terminated\n"
        "from stages.ablation_commands import _wait\n"
        "child = '''import signal, sys, time\n"
        'def stop(*_): print("in order", flush=True); sys.exit(143)\n'
        "signal.signal(signal.SIGTERM, stop)\nprint(\"runs\", flush=True)\ntime.sleep(60)'''\n"
        "try:\n    with sigterm_as_interrupt():\n        _wait([sys.executable, '-c', child])\n"
        "except Terminated:\n    print('stopped', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "in order\nstopped\n"


# ---- the command ------------------------------------------------------------------------------------


@pytest.fixture
def command(exp, monkeypatch):
    """Runs the command with a fake in the place of the stages' processes."""
    app = typer.Typer()
    app.command()(ablation_commands.ablation)

    def run(fake: Fake, *words: object):
        monkeypatch.setattr(ablation_commands, "StageProcess", lambda exp: fake)
        return CliRunner().invoke(app, ["--exp", exp, *map(str, words)])

    return run


@pytest.mark.slow
def test_the_command_writes_all_files_and_the_same_again(command, tmp_path):
    told = command(Fake(), "--seeds", 2, "--output", tmp_path / "tables")
    assert (told.exit_code, f"{2 * len(CELLS)} of {2 * len(CELLS)} measured" in told.output) == (0, True)
    names = ("ablation.md", "ablation.json", "ablation.svg", "ablation.html")
    first = {name: (tmp_path / "tables" / name).read_bytes() for name in names}
    command(Fake(), "--seeds", 2, "--output", tmp_path / "tables")
    assert {name: (tmp_path / "tables" / name).read_bytes() for name in names} == first
    figures = json.loads(first["ablation.json"])
    assert figures["cells"][2]["over_seeds"]["ap"] == pytest.approx(
        {"mean": 0.245, "deviation": 0.00707, "count": 2}, rel=1e-3
    )


def test_a_list_of_cells_that_names_none_is_refused(command):
    told = command(Fake(), "--cells", " , ")
    assert isinstance(told.exception, StageError)
    assert str(told.exception) == "--cells names no cell: leave it out to run all"


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), ("failed", 1)])
def test_a_stopped_or_failed_run_still_gives_its_table(command, tmp_path, stop, status):
    told = command(Fake({"sd, seed 0: train-teacher": stop}), "--seeds", 1, "--cells", "supervised,sd")
    assert told.exit_code == status
    assert "1 of 2 measured" in told.output
    text = (tmp_path / "work" / "tiny" / "ablation" / "ablation.md").read_text()
    assert "| + SD | 0 | – | – |" in text
    assert "+ SD is not measured yet with seed 0." in text


def test_a_run_of_some_cells_keeps_what_others_have_measured_in_the_table(command, tmp_path):
    command(Fake(), "--seeds", 1, "--cells", "sd")
    command(Fake(), "--seeds", 1, "--cells", "supervised")
    text = (tmp_path / "work" / "tiny" / "ablation" / "ablation.md").read_text()
    assert "| supervised | 1 |" in text
    assert "| + SD | 1 |" in text
    assert "ARP" not in text


def test_settings_over_the_experiment_have_tables_of_their_own(command, tmp_path):
    command(Fake(), "--seeds", 1, "--cells", "supervised", "--set", "compute.cache_embeddings=true")
    plain = tmp_path / "work" / "tiny" / "ablation" / "ablation.md"
    before = plain.read_text()
    assert "Overrides:" not in before
    command(Fake(), "--seeds", 1, "--cells", "sd", "--set", "teacher.iterations=7")
    assert plain.read_text() == before
    (other,) = (tmp_path / "work" / "tiny").glob("ablation-*/ablation.md")
    assert "Overrides: teacher.iterations=7." in other.read_text()


# ---- figures and tables -----------------------------------------------------------------------------


def test_figures_over_seeds_gains_and_the_gap(ablation):
    by_key = {cell.key: cell for cell in ablation.cells}
    assert by_key["all"].gain == Spread(pytest.approx(0.11), pytest.approx(0, abs=1e-9), 2)
    assert by_key["all"].gap_closed == pytest.approx(0.55)
    assert by_key["supervised"].gap_closed is by_key["ceiling"].gap_closed is by_key["supervised"].gain is None
    assert [each.model for each in by_key["sd"].seeds] == ["train-teacher"] * 2
    assert [each.model for each in by_key["gate"].seeds] == ["train-student"] * 2
    assert by_key["sd"].spread("label_iou_after") is None


def test_sharing_is_counted_by_stage(ablation):
    sharing = {each.stage: each for each in ablation.sharing}
    # One split a seed, and one of the ceiling, where no seed decides.
    asked = 2 * len(CELLS)
    assert (sharing["split"].asked, sharing["split"].made) == (asked, 3)
    assert (sharing["train-teacher"].asked, sharing["train-teacher"].made) == (asked, 6)
    assert sharing["train-teacher"].seconds_saved == (asked - 6) * 60
    # All but three cells have a student; `gate` and `arp` share labels, `self-training` and `arp-unrefined` too.
    assert (sharing["refine"].asked, sharing["refine"].made) == (asked - 6, 16)
    assert (sharing["refine"].encoded, sharing["refine"].encoded_saved) == (80, 5 * (asked - 22))


def test_without_a_ceiling_or_supervised_teacher_there_is_no_gap(exp):
    units, _ = run(exp, Fake(), "supervised", "all")
    by_key = {cell.key: cell for cell in collect("tiny", (), units).cells}
    assert by_key["all"].gain is not None
    assert by_key["all"].gap_closed is None


def test_spread_is_that_of_a_sample():
    assert spread([0.1, None, 0.3]) == Spread(pytest.approx(0.2), pytest.approx(0.1414, rel=1e-3), 2)
    assert spread([0.1]) == Spread(0.1, None, 1)
    assert spread([None]) is None


def test_markdown_says_mean_and_deviation(ablation):
    text = writing.markdown(ablation)
    assert "| as written | 2 | 31.5 ± 0.7 | +11.0 ± 0.0 | 55 % | 50.0 ± 0.0 | 30.0 ± 0.0 | – | 0.712 ± 0.000 | " in text
    assert "seeds 0, 1." in text
    assert "not measured yet" not in text


def test_a_worse_cell_has_a_minus_and_a_single_seed_no_deviation():
    figures = SeedFigures(0, "train-student", 0.1, None, None, None, None, None)
    cell = CellFigures("arp", "+ ARP", "about", (figures,), (1,), Spread(-0.1, None, 1), -0.25)
    text = writing.markdown(Ablation("e", (), (0, 1), (cell,), ()))
    assert "| + ARP | 1 | 10.0 | −10.0 | −25 % | – | – | – | – | – |" in text
    assert tables.sharing_sentence(Ablation("e", (), (0,), (cell,), ())) == ""


def test_cityscapes_own_measure_is_a_column_where_it_was_measured(tmp_path):
    figures = SeedFigures(0, "train-student", 0.3, None, None, None, None, None)
    other = replace(figures, cityscapes_ap=0.25)
    cells = [CellFigures(key, key, "about", (each,), (), None, None) for key, each in (("a", figures), ("b", other))]
    measured = Ablation("e", (), (0,), tuple(cells), ())
    text = writing.markdown(measured)
    assert "| boundary AP | Cityscapes AP | labels before |" in text
    assert "| a | 1 | 30.0 | – | – | – | – | – | – | – | – |" in text
    assert "| b | 1 | 30.0 | – | – | – | – | – | 25.0 | – | – |" in text
    assert "Cityscapes" not in writing.markdown(replace(measured, cells=(cells[0],)))
    writing.write_ablation(tmp_path, measured)
    assert writing.read_ablation(tmp_path / "ablation.json") == measured
    old = json.loads((tmp_path / "ablation.json").read_text())
    for cell in old["cells"]:
        for seed in cell["seeds"]:
            del seed["cityscapes_ap"]
    (tmp_path / "ablation.json").write_text(json.dumps(old))
    assert writing.read_ablation(tmp_path / "ablation.json").cells[1].seeds == (figures,)


def test_the_chart_is_a_file_of_its_own_with_a_dot_for_every_seed(ablation):
    root = ElementTree.fromstring(str(writing.chart(ablation)))
    dots = [each for each in root.iter("{http://www.w3.org/2000/svg}circle") if each.get("class") == "seed"]
    assert len(dots) == 2 * len(CELLS)
    assert all(150 <= float(dot.get("cx", "0")) <= 650 for dot in dots)


def test_the_page_is_whole_and_says_what_was_saved(ablation, tmp_path):
    writing.write_ablation(tmp_path / "out", ablation)
    page = Page((tmp_path / "out" / writing.PAGE).read_text())
    assert "The cells need" in page.text
    assert "31.5 ± 0.7" in page.text


def test_figures_are_read_as_they_were_written(ablation, tmp_path):
    writing.write_ablation(tmp_path / "out", ablation)
    assert writing.read_ablation(tmp_path / "out" / ABLATION_FIGURES) == ablation


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "s4m-ablation", "version": 1}', "\udc80"])
def test_what_is_no_ablation_is_refused_with_what_to_do(text, tmp_path):
    path = tmp_path / ABLATION_FIGURES
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(StageError, match="remove the file, or run `s4m ablation` again"):
        writing.read_ablation(path)


def test_the_report_is_another_one_when_the_ablation_is(exp, ablation):
    def report() -> str:
        return workspace(load_experiment(Path(exp))).fingerprints["report"].id

    folder = ablation_folder(work_root(), "tiny")
    before = report()
    writing.write_ablation(folder, ablation)
    shown = report()
    writing.write_ablation(folder, replace(ablation, seeds=(0,)))
    assert len({before, shown, report()}) == 3
    writing.write_ablation(folder, ablation)
    assert report() == shown


def test_an_ablation_of_which_nothing_is_made_is_a_table_too(exp, tmp_path):
    writing.write_ablation(tmp_path / "out", collect("tiny", (), units_of(exp, [], 1)))
    assert "| + SD | 0 | – |" in (tmp_path / "out" / writing.MARKDOWN).read_text()


def test_ablations_with_other_settings_keep_their_results_apart(exp):
    """Cells of one folder would point at the last ablation's results only, and pruning would remove the first's."""
    first, second = (units_of(exp, given, 1, "all")[0].space for given in ([], ["refine.points=5"]))
    for space in (first, second):
        fingerprint = space.fingerprints["refine"]
        folder = space.store.partial("refine", fingerprint.id)
        folder.mkdir(parents=True)
        (folder / "a").touch()
        space.store.seal(fingerprint, space.experiment.name, 1.0, {}, {})
        space.refresh()
    assert first.folder != second.folder
    users = {result.id: result.references for result in first.store.results()}
    assert users == {space.fingerprints["refine"].id: (space.experiment.name,) for space in (first, second)}


def test_settings_without_effect_do_not_change_the_cells_folders(exp):
    first, second = (units_of(exp, given, 1, "all")[0].space for given in ([], ["compute.workers=2"]))
    assert first.folder == second.folder
