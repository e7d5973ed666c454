"""No text that a command prints can give commands to the terminal, wherever the text is from."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import yaml

from pipeline.compute.execution import ShardProgress
from pipeline.compute.shards import ShardReport
from pipeline.presentation.words import visible
from pipeline.workflow.loading import load_experiment
from stages import progress
from stages.console import SafeConsole
from tests.tiny_coco import tiny_coco, tiny_dict, write_json
from tests.tiny_experiment import make_experiment_files

COMMANDS = "\x1b[31m\x9b2J\x07\x1b]0;title\x07\u202e"
SHOWN = "\\x1b[31m\\x9b2J\\x07\\x1b]0;title\\x07\\u202e"


def harmless(text: str) -> bool:
    return all(each in "\n\t" or (unicodedata.category(each) not in ("Cc", "Cs") and each != "\u202e") for each in text)


def test_every_control_character_is_shown_as_its_code():
    for number in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E, 0x2066, 0xD800, 0xDCFF):
        character = chr(number)
        shown = visible(f"a{character}b")
        assert shown == (
            f"a{character}b" if character in "\t\n" else f"a{character.encode('unicode_escape').decode()}b"
        )
        assert harmless(shown)
    for text in ("plain", "é 日本\u3000\xa0😀 \u200d", "a\tb\nc"):
        assert visible(text) == text


def test_a_console_shows_codes_and_keeps_its_own_styles():
    written = io.StringIO()
    console = SafeConsole(file=written, force_terminal=True, color_system="standard", markup=False, highlight=False)
    console.print(f"name{COMMANDS}", style="green", end="!")
    assert written.getvalue().startswith(f"\x1b[32mname{SHOWN}\x1b[0m")


@pytest.mark.parametrize(
    "words",
    [
        ["config", "--exp", f"none{COMMANDS}"],
        ["config", "--exp", f"none{COMMANDS}\udcff.yaml"],
        ["config", "--exp", "EXPERIMENT", "--set", f"a{COMMANDS}=1"],
        ["config", "--exp", "EXPERIMENT", "--set", f"data.annotated.images={COMMANDS}"],
        ["graph", "--exp", f"none{COMMANDS}"],
        ["status", f"--exp{COMMANDS}"],
        [f"no{COMMANDS}"],
        ["stores", f"no{COMMANDS}"],
        ["data", "check", f"none{COMMANDS}"],
        ["data", "check", "FILE", f"images{COMMANDS}"],
        ["data", "check", "FILE"],
        ["new", f"name{COMMANDS}"],
        ["labels", "show", f"none{COMMANDS}", "out.png"],
        ["labels", "export", f"none{COMMANDS}:predict", "out.json"],
        ["weights", "get", f"vit{COMMANDS}"],
        ["refine-coco", f"a{COMMANDS}.json", ".", f"b{COMMANDS}.json"],
        ["compare", f"none{COMMANDS}"],
        ["ablation", "--exp", "EXPERIMENT", "--cells", COMMANDS],
    ],
    ids=lambda words: " ".join(words[:2]).split("\x1b")[0],
)
def test_names_of_the_command_line_and_of_files_are_shown_as_codes(s4m, tmp_path, words):
    content = tiny_dict()
    content["images"][0]["file_name"] = f"a{COMMANDS}.png"
    content["categories"][0]["name"] = f"class{COMMANDS}"
    content["annotations"][0]["bbox"] = COMMANDS
    content[f"key{COMMANDS}"] = 1
    annotations = write_json(tmp_path / f"set{COMMANDS}", content)
    given = {"EXPERIMENT": str(make_experiment_files(tmp_path)), "FILE": str(annotations)}
    told = s4m(*[given.get(word, word) for word in words])
    assert told.status in (1, 2)
    assert harmless(told.out + told.err)
    assert told.out + told.err


def test_failures_of_images_are_shown_as_codes(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "err", SafeConsole(file=written, markup=False, highlight=False))
    with progress.ProgressDisplay() as display:
        display(ShardProgress(f"refine{COMMANDS}", 2, 0, 0))
        display(ShardProgress("refine", 2, 2, 0, ShardReport(2, {}, {f"a{COMMANDS}.png": f"bad{COMMANDS}"})))
    assert written.getvalue().replace("\n", "") == f"a{SHOWN}.png: bad{SHOWN}"


def test_a_printed_experiment_is_read_again_whatever_is_in_it(s4m, tmp_path):
    folder = tmp_path / f"images{COMMANDS}"
    experiment = make_experiment_files(tmp_path)
    tiny_coco(tmp_path / "other")
    (tmp_path / "other/images").rename(folder)
    told = s4m(
        "config", "--exp", experiment, "--set", f"data.annotated.images={yaml.safe_dump(str(folder), width=999)}"
    )
    assert told.status == 0, told.err
    assert harmless(told.out)
    (tmp_path / "again.yaml").write_text(told.out)
    assert load_experiment(tmp_path / "again.yaml").data.annotated.images == folder


def test_names_that_are_not_utf_8_end_in_a_message(tmp_path):
    name = os.fsdecode(b"x\xff\x9b.yaml")
    make_experiment_files(tmp_path).rename(tmp_path / name)
    environment = {**os.environ, "S4M_WORK": str(tmp_path / "work"), "PYTHONUTF8": "1"}
    command = [Path(sys.executable).parent / "s4m", "config", "--exp", tmp_path / name]
    told = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    assert told.returncode == 1
    assert b"name: given " in told.stderr
    assert b"Traceback" not in told.stderr
    assert harmless(told.stderr.decode())
