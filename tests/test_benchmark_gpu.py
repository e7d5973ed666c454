"""`make bench-gpu` as far as a machine without a GPU can run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Bench, encoder_flops, run_sections, seconds_of

ROOT = Path(__file__).parent.parent
TINY = Bench("cpu", tiny=True)


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of the table of each section, by title."""
    sections = (part.partition("\n") for part in text.split("\n## ")[1:])
    return {
        title: [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
        for title, _, body in sections
    }


@pytest.mark.slow
def test_the_file_has_the_figures_of_every_section(tmp_path):
    output = tmp_path / "new" / "bench.md"
    names = ("machine", "products", "refine", "training")
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--tiny",
        "--output",
        output,
        "--only",
        *names,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    text = output.read_text()
    assert done.returncode == 0, text + done.stderr
    assert "Failed" not in text
    found = tables(text)
    assert [row[0] for row in found["Machine"][2:]] == ["NMS", "RoIAlign", "deformable attention"]
    assert [row[0] for row in found["Products of matrices"][2:]] == ["float32", "bf16"]
    assert [row[:2] for row in found["Refining"][2:]] == [["sam_tiny", "1"], ["sam_tiny", "2"]]
    assert all(float(rate) > 0 for row in found["Refining"][2:] for rate in row[2:4])
    trained = found["Training"][2:]
    assert [row[0] for row in trained] == ["teacher", "teacher with SD", "student, composites on the fly"]
    assert all(float(row[1]) > 0 and row[2].endswith("%") for row in trained)
    assert "train-teacher: done" not in text


def test_a_section_that_fails_or_takes_too_long_is_told_and_the_others_run(tmp_path, monkeypatch):
    ways = {
        "machine": "print('| a figure |', flush=True); raise SystemExit('no such card')",
        "products": "print('fine')",
        "refine": "import time; print('| first row |', flush=True); time.sleep(60)",
        "hf": "print('never begun')",
    }
    usual = subprocess.run

    def run(command, **options):
        return usual([sys.executable, "-c", ways[command[command.index("--section") + 1]]], **options)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    output = tmp_path / "bench.md"
    assert run_sections(TINY, tuple(ways), output, minutes=0.05) == 3
    parts = output.read_text().split("\n## ")
    assert "| a figure |" in parts[1]
    assert "**Failed:** no such card" in parts[1]
    assert "fine" in parts[2]
    assert "| first row |" in parts[3]
    for part in parts[3:]:
        assert "**Not finished** within the 0.05 minutes" in part
    assert "never begun" not in parts[4]


def test_operations_of_the_encoder_are_counted():
    assert 0.9e12 < encoder_flops("vit_b") < 1.05e12  # about 945 GFLOP, docs/benchmarks.md


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("other", None),
    ],
)
def test_the_peak_is_that_of_the_card(monkeypatch, card, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    assert Bench("cuda", tiny=False).peak_tflops() == peak
    assert TINY.peak_tflops() is None


def test_the_first_call_does_not_count():
    calls = []
    assert 0 <= seconds_of(TINY, lambda: calls.append(1), 3) < 1
    assert len(calls) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_without_a_gpu_it_says_how_to_try_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "torch sees no GPU here; to try the benchmark itself: --device cpu --tiny" in done.stderr
