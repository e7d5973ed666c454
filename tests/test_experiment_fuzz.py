"""Mutated experiment files: whatever stands in them, only ExperimentError comes out."""

from __future__ import annotations

import random
import string
from typing import Any

import pytest
import yaml

from pipeline.errors import ExperimentError
from pipeline.workflow.describe import keys_of
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from tests.fuzzing import within
from tests.torture import seeds

KEYS = list(keys_of(Experiment))
ODD_VALUES: list[Any] = [
    [float("nan")], {"x": [-float("inf")]}, 10**3000,
    None, True, False, 0, -1, 1, 10**30, -(10**400), 0.5, float("nan"), float("inf"), -float("inf"), 1e308,
    "", "x", "off", "1e-4", "\x00", "é\u202e😀", "../../etc/passwd", "$HOME", "${NOT_SET}", "~nobody/x", "a" * 300,
    [], [1], [0.8, 1.2], [[[]]], {}, {"a": {"b": []}}, {"": None}, {"model.backbone": None},
]  # fmt: skip
UNREADABLE = ["\udcff", "[\ud800]", '"\\ud800"', "{\udcff: 1}", "0x" + "f" * 10_000]
"""Values of a command line that no file holds as text."""


def mutated(random_: random.Random) -> str:
    """An experiment file with a few things changed, at times so that it is no YAML any more."""
    content: dict[str, Any] = {"data": {"annotated": {"annotations": "set.json", "images": "."}, "percent": 10}}
    for _ in range(random_.choice([0, 1, 1, 2, 4])):
        key = random_.choice(KEYS)
        if random_.random() < 0.3:
            key = "".join(random_.sample(key, len(key)))
        target = content
        *sections, leaf = key.split(".")
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                break
            target = inner
        target[leaf] = random_.choice(ODD_VALUES)
    text = yaml.dump(content, Dumper=yaml.CSafeDumper, allow_unicode=True)
    for _ in range(random_.choice([0, 0, 1, 3])):
        place = random_.randrange(len(text) + 1)
        junk = "".join(random_.choices(string.printable + "é\x00\x85\u2028", k=random_.randint(0, 3)))
        text = text[:place] + junk + text[place + random_.randint(0, 3) :]
    return text


@pytest.mark.slow
@seeds(2_000)
def test_mutated_experiments_never_raise_anything_but_experiment_error(tmp_path, monkeypatch, seeds):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.json").write_text("{}")
    detector = tmp_path / "configs/detectors/mask_rcnn_small.py"
    detector.parent.mkdir(parents=True)
    detector.write_text("")
    refused = accepted = 0
    for number in seeds:
        random_ = random.Random(number)
        text = mutated(random_)
        path = tmp_path / f"{number}.yaml"  # a new one: writing over a file waits for the disk
        path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        override = [f"{random_.choice(KEYS)}={random_.choice([*ODD_VALUES, *UNREADABLE])}"] if number % 5 == 0 else []
        try:
            with within(20):
                load_experiment(path, override, {})
            accepted += 1
        except ExperimentError as error:
            assert error.problems
            refused += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {str(error)[:500]}\n--set {override}\n{text}")
        path.unlink()
    assert refused + accepted == len(seeds)
    assert refused > len(seeds) // 10
    assert accepted > len(seeds) // 20
