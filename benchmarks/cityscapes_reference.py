"""Compares the instance AP of Cityscapes with cityscapesscripts on random miniatures, or records its figures.

cityscapesscripts is no requirement of the project: it needs packages for drawing and for cameras. To compare:

    .venv/bin/pip install --no-deps cityscapesscripts==2.3.0 pyquaternion==0.9.9
    make bench-cityscapes
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import typer
from PIL import Image

from pipeline.datasets.cityscapes import CLASSES
from pipeline.evaluation.cityscapes_ap import MIN_IOUS
from tests.cityscapes_miniatures import (
    MINIATURES,
    RECORDED,
    Figures,
    Miniature,
    largest_difference,
    miniatures,
    own_figures,
    with_nulls,
)


def their_figures(images: Sequence[Miniature], folder: Path) -> Figures | None:
    """Return those of cityscapesscripts; None where it fails: it cannot measure a class of ignored detections alone."""
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as script  # noqa: N813

    predictions, truths = [], []
    for number, image in enumerate(images):
        truth = folder / f"town_{number:06d}_000000_gtFine_instanceIds.png"
        Image.fromarray(image.labels).save(truth)
        lines = []
        for index, (class_id, score, mask) in enumerate(image.detections):
            name = f"{number}_{index}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
            lines.append(f"{name} {class_id} {score}\n")
        prediction = folder / f"town_{number:06d}_000000_pred.txt"
        prediction.write_text("".join(lines))
        predictions.append(str(prediction))
        truths.append(str(truth))
    script.args.predictionPath = str(folder)
    script.args.gtInstancesFile = str(folder / "gtInstances.json")
    script.args.JSONOutput, script.args.quiet = False, True
    with chdir(folder):  # it writes a file beside the command
        try:
            result = script.evaluateImgLists(predictions, truths, script.args)
        except IndexError:
            return None
    assert np.array_equal(result["overlaps"], MIN_IOUS)
    by_class = dict(zip(result["instLabels"], result["resultApMatrix"][0], strict=True))
    return {name: with_nulls(np.array(by_class[name])) for name in CLASSES.values()}


def main(seeds: int = 300, record: bool = False) -> None:
    """Compare many miniatures, or record the figures of those that the tests compare with."""
    if find_spec("cityscapesscripts") is None:
        raise SystemExit(__doc__)
    os.environ.pop("CITYSCAPES_DATASET", None)
    worst, compared, figures = 0.0, 0, []
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            theirs = their_figures(miniatures(seed), Path(folder))
        if theirs is None:
            print(f"seed {seed}: cityscapesscripts fails on it")
            continue
        worst = max(worst, largest_difference(own_figures(miniatures(seed)), theirs))
        compared += 1
        figures.append((seed, theirs))
    print(f"{compared} of {seeds} miniatures compared, the largest difference of an AP is {worst:.3g}")
    if record:
        kept = figures[:MINIATURES]
        content = {"seeds": [seed for seed, _ in kept], "ap": [each for _, each in kept]}
        RECORDED.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"recorded: {RECORDED}")


if __name__ == "__main__":
    typer.run(main)
