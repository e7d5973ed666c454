"""What is given to make is text: no value of a variable is run by make or by the shell, and each arrives as it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = "touch RAN"
HOSTILE = [
    f"$(shell {RUN})", f"$$(shell {RUN})", f"${{shell {RUN}}}", f"$(eval $(shell {RUN}))", f"$({RUN})", f"`{RUN}`",
    f"x; {RUN}", f"x;{RUN};", f"x' ; {RUN} ; '", f"x\" ; {RUN} ; \"", f"x\\' ; {RUN} ; \\'", f"x && {RUN}",
    f"x || {RUN}", f"x & {RUN} &", f"x | {RUN}", "x > RAN", "x < /dev/null > RAN", f"'$({RUN})'", f"\"$({RUN})\"",
    f"'`{RUN}`'", f"x # $(shell {RUN})", f"$(info x)$(shell {RUN})", f"$(error {RUN})", f"!{RUN}", "x\\",
    "$", "$$", "*",
    "~", "-n", "a,b)", "$(call quoted,x", "%", "x=y", "$(EXP)", "é\u202e\x1b[31m", "'", '"', "''", "\\'",
    f"x\n\t{RUN}", f"x\n{RUN}\n", f"x\r{RUN}",
]  # fmt: skip
LINE_BREAKS = [value for value in HOSTILE if "\n" in value]

VARIABLES = {
    "split": ("EXP", "SET", "WORKERS", "GPUS", "NODES", "NODE_RANK", "MASTER"),
    "status": ("EXP", "SET", "WORKERS", "GPUS", "NODES", "NODE_RANK", "MASTER"),
    "config": ("EXP", "SET", "WORKERS", "GPUS", "NODES", "NODE_RANK", "MASTER"),
    "ablation": ("EXP", "SET", "WORKERS", "GPUS", "NODES", "NODE_RANK", "MASTER", "SEEDS", "CELLS"),
    "demo": ("SIZE",),
    "bench-presets": ("ANNOTATIONS", "IMAGES"),
    "bench-adapt": ("ANNOTATIONS", "IMAGES", "LABELLED"),
    "bench-embeddings": ("ANNOTATIONS", "IMAGES"),
    "sam-tiny": ("MINUTES",),
}
"""The variables of every target that has some."""

STUB = """#!/bin/sh
printf '%s\\037' "$@" >> '{log}'
printf '\\036' >> '{log}'
[ "$1" != graph ] || echo '{edges}'
"""
"""Notes its arguments, each ended by the separator of units, and the call by that of records."""


class Made:
    """Runs make with programs that note their arguments in the place of the project's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.ran = folder / "log", ROOT / "RAN"
        edges = folder / "edges.mk"
        edges.write_text("split report:\n\t@$(S4M) split $(ARGUMENTS)\n")
        (folder / "bin").mkdir()
        for name in ("s4m", "python"):
            stub = folder / "bin" / name
            stub.write_text(STUB.format(log=self.log, edges=edges))
            stub.chmod(0o755)

    def __call__(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        self.log.unlink(missing_ok=True)
        own = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        command = ["make", f"BIN={self.folder / 'bin'}", "SETUP=", *words]
        done = subprocess.run(command, cwd=ROOT, env=own | (environment or {}), capture_output=True, timeout=60)
        ran = self.ran.exists()
        self.ran.unlink(missing_ok=True)
        assert not ran, command
        return done

    @property
    def calls(self) -> list[list[str]]:
        noted = self.log.read_bytes().decode() if self.log.exists() else ""
        return [call.split("\x1f")[:-1] for call in noted.split("\x1e")[:-1]]


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def expected(target: str, value: str) -> list[list[str]]:
    """The arguments of the commands of a target whose variables all have a value."""
    split = [word for part in value.split() for word in ("--set", part)]
    machines = [f"compute.{key}={value}" for key in ("workers", "gpus", "nodes", "node_rank", "master")]
    shared = ["--exp", value, *split, *(word for setting in machines for word in ("--set", setting))]
    data = ["--annotations", value, "--images", value]
    small = ["--classes", "3", "--images", "40", "--validation", "10"]
    return {
        "split": [["graph", *shared], ["split", *shared]],
        "status": [["status", *shared]],
        "config": [["config", *shared]],
        "ablation": [["ablation", *shared, "--seeds", value, "--cells", value]],
        "demo": [
            ["data", "shapes", f"data/generated/demo-{value}", *small],
            ["graph", "--exp", f"demo-{value}"],
            ["split", "--exp", f"demo-{value}"],
        ],
        "bench-presets": [
            ["-m", "benchmarks.presets", "--presets-only", "--limit", "50", "--instances", "8", *data],
        ],
        "bench-adapt": [["-m", "benchmarks.adapt", "--labelled", value, *data]],
        "bench-embeddings": [["-m", "benchmarks.embeddings", "--limit", "40", *data]],
        "sam-tiny": [["-m", "pipeline.sam.tiny.train", "--work", "work/sam-tiny", "--minutes", value]],
    }[target]


@pytest.mark.slow
@pytest.mark.parametrize("target", VARIABLES)
def test_values_arrive_as_they_are_and_nothing_of_them_is_run(made, target):
    for value in HOSTILE:
        words = [f"{name}={value}" for name in VARIABLES[target]]
        made("-n", target, *words)
        assert not [call for call in made.calls if call[0] != "graph"]
        done = made(target, *words)
        if value in LINE_BREAKS:
            assert b"has a line break: leave it out" in done.stderr
            assert not made.calls
        else:
            assert made.calls == expected(target, value), (value, done.stderr)


@pytest.mark.slow
def test_values_of_the_environment_are_text_too(made):
    for value in HOSTILE[:12]:
        made("status", environment=dict.fromkeys(VARIABLES["ablation"], value))
        assert made.calls == expected("status", value)


def test_every_variable_that_a_user_gives_is_tried():
    text = (ROOT / "Makefile").read_text()
    (given,) = (line for line in text.splitlines() if line.startswith("GIVEN := "))
    tried = {name for names in VARIABLES.values() for name in names}
    of_setup = {"EXTRAS", "MMCV_WITH_CUDA"}  # setup.sh takes known words alone: test_setup.py
    assert set(given.removeprefix("GIVEN := ").split()) == tried | of_setup
    assert len(HOSTILE) >= 26
