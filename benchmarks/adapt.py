"""Measure the adaptation of SAM to a few labels: masks on images that it never saw, before and after.

    python -m benchmarks.adapt --annotations FILE --images FOLDER [--labelled 40] [--measured 60] [--seed 0]
    python -m benchmarks.adapt --annotations FILE --images FOLDER --step vit_b [--train all]
    python -m benchmarks.adapt --annotations FILE --images FOLDER --step "SAM 2.1 tiny" [--train all]

The first form fits SAM to some of the images, drawn at random, as the stage `adapt` does, with folds and guard. Then it
refines masks of imitated teachers of three qualities on other images, with SAM as it was and with the chosen weights.
The other forms do a few training steps of a SAM with random weights, which change no time: segment_anything's, or
a family of transformers as `benchmarks.sams` names them. All print Markdown, with seconds of the clock and of the
processor, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.sams import FAMILIES, family
from pipeline.adaptation.adapting import AdaptTask, adapt_sam
from pipeline.adaptation.card import report_lines
from pipeline.adaptation.encoding import EncodedOnce
from pipeline.adaptation.fitting import Course, Fitting
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.measuring import QUALITIES, Exam, Marks, examine, make_exams, noises_of
from pipeline.adaptation.settings import AdaptSettings
from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.adapted import settings_of
from pipeline.sam.build import build_sam
from pipeline.sam.hf.learner import HfLearner
from pipeline.sam.interface import Learner
from pipeline.sam.learner import SamLearner, build_learner
from pipeline.sam.settings import SamSettings

STEPS = 3


def divided(dataset: CocoDataset, labelled: int, measured: int, seed: int) -> tuple[CocoDataset, CocoDataset]:
    """Return images to fit to and other images to measure on, all with instances, drawn at random."""
    ids = sorted(image_id for image_id in dataset.image_by_id if dataset.instances(image_id))
    drawn = np.random.default_rng(seed).permutation(ids).tolist()
    return dataset.subset(drawn[:labelled]), dataset.subset(drawn[labelled : labelled + measured])


def written(dataset: CocoDataset, path: Path) -> Path:
    """Write the dataset as a COCO file."""
    write_coco(path, dataset.images, dataset.categories, dataset.annotations)
    return path


def marks_of(sam: SamSettings, exams: Sequence[Exam]) -> Marks:
    """Refine the masks of the exams with a SAM."""
    learner = build_learner(sam, "cpu")
    return examine(exams, learner.engine(learner.module.state_dict(), "fp32"), RefineSettings())


def table(before: Marks, after: Marks) -> str:
    """Return the Markdown table of mean IoUs by the quality of the teacher."""
    lines = ["| teacher | SAM as it was | chosen weights | change | instances |", "|---|---|---|---|---|"]
    qualities = np.array(before.qualities)
    for chosen in [*(qualities == quality for quality in range(len(QUALITIES))), qualities >= 0]:
        teacher, first, second = (
            float(np.array(values)[chosen].mean()) for values in (before.teacher, before.refined, after.refined)
        )
        lines.append(f"| {teacher:.3f} | {first:.3f} | {second:.3f} | {second - first:+.4f} | {chosen.sum()} |")
    return "\n".join(lines)


def compare(arguments: argparse.Namespace) -> None:
    """Fit SAM to some images, and measure it on others."""
    whole, compute = read_coco(arguments.annotations), ComputeSettings(device="cpu")
    adapt = AdaptSettings(seed=arguments.seed, iterations=arguments.iterations, train=arguments.train)
    with tempfile.TemporaryDirectory() as scratch:
        fitted, others = divided(whole, arguments.labelled, arguments.measured, arguments.seed)
        given = written(fitted, Path(scratch) / "labelled.json")
        task = AdaptTask(given, arguments.images, SamSettings(model=arguments.sam), RefineSettings(), adapt)
        begun, processor = time.perf_counter(), time.process_time()
        card = adapt_sam(task, Path(scratch) / "sam", Execution(compute, say=lambda text: print(text, file=sys.stderr)))
        seconds, processor = time.perf_counter() - begun, time.process_time() - processor
        memory = peak_gib()
        unseen = written(others, Path(scratch) / "others.json")
        labelled = UsableImages.read(unseen, arguments.images, compute, arguments.seed)
        noises = noises_of(labelled, arguments.seed)
        exams = list(make_exams(labelled, labelled.image_ids, noises, arguments.seed, folds=1))
        before, after = marks_of(task.sam, exams), marks_of(settings_of(Path(scratch) / "sam"), exams)
    print(f"{arguments.sam} on {arguments.annotations}, {card.images} images, seed {arguments.seed}: ", end="")
    print(f"{seconds:.0f} s, {processor:.0f} s of the processor, peak memory {memory:.2f} GiB.\n")
    print("\n".join(f"- {line}" for line in report_lines(card)))
    print(f"\nOn {len(exams)} other images:\n\n{table(before, after)}")


def random_learner(name: str) -> Learner:
    """Return a SAM with random weights, by its name in segment_anything or here."""
    if name in FAMILIES:
        return HfLearner(family(name), Path())  # it has no folder, and is not published
    return SamLearner(build_sam(name, random_weights_seed=0))


def step(arguments: argparse.Namespace) -> None:
    """Do training steps of a SAM with random weights."""
    labelled = UsableImages.read(arguments.annotations, arguments.images, ComputeSettings(), arguments.seed)
    adapt = AdaptSettings(seed=arguments.seed, batch_images=1, train=arguments.train)
    sam = random_learner(arguments.step)
    frozen = None if arguments.train == "all" else EncodedOnce(sam.engine(sam.module.state_dict(), "fp32"))
    course = Course("measured", 0, labelled.image_ids[:1], 1.0)
    what = "all of it" if frozen is None else "all but its encoder"
    print(f"{arguments.step}, random weights, {what}, a batch of one image with at most {adapt.instances} instances:\n")
    print("| step | seconds | of the processor | peak memory |\n|---|---|---|---|")
    for views in ("new views",) if frozen is None else ("new views", "views encoded before"):
        fitting = Fitting(sam, labelled, course, RefineSettings(), adapt, frozen)  # the same draws again
        for number in range(STEPS):
            begun, processor = time.perf_counter(), time.process_time()
            fitting.train_step()
            seconds, processor = time.perf_counter() - begun, time.process_time() - processor
            row = f"| {number + 1}, {views} | {seconds:.1f} | {processor:.1f} | {peak_gib():.2f} GiB |"
            print(row, flush=True)


def peak_gib() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instance annotations")
    parser.add_argument("--images", type=Path, required=True, help="the folder that their file names start from")
    parser.add_argument("--labelled", type=int, default=40, help="images to fit to")
    parser.add_argument("--measured", type=int, default=60, help="other images to measure on, at most")
    parser.add_argument("--sam", default="sam_tiny")
    parser.add_argument("--train", choices=("auto", "all", "decoder"), default="auto")
    parser.add_argument("--iterations", type=int, default=AdaptSettings().iterations)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", metavar="MODEL", help="measure training steps of this model alone")
    arguments = parser.parse_args()
    (compare if arguments.step is None else step)(arguments)


if __name__ == "__main__":
    main()
