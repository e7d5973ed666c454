"""A training step in parts, and what is told where a GPU is too small."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from torch import nn

from pipeline.compute.gpu_memory import told_if_gpu_is_full
from pipeline.detection.mask2former_head import MASKS_IN_ALL
from pipeline.detection.parts import step_in_parts
from pipeline.errors import StageError
from tests.detection_samples import FAMILIES, SIDE, build, instances, sample

ONE, OTHER = (8, 8, 30, 30), (34, 30, 60, 62)
FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.75 GiB of which 1.00 GiB is free. "
    "Including non-PyTorch memory, this process has 6.70 GiB memory in use."
)


class Line(BaseModel):
    """A slope that learns the mean of `inputs`; notes what it sees."""

    def __init__(self, parts):
        super().__init__(BaseDataPreprocessor())
        self.slope, self.batch_parts = nn.Parameter(torch.tensor(3.0)), parts
        self.seen, self.counted = [], []

    def share_counts(self, samples):
        self.counted.append(list(samples))

    def forward(self, inputs, data_samples, mode):
        self.seen.append(data_samples)
        values = torch.stack(inputs)
        return {"loss_line": (self.slope * values).mean(), "accuracy": values.mean()}


def stepped(parts, runs=None):
    """A line after a step with a learning rate of 1, and the mean losses."""
    line = Line(parts)
    data = {"inputs": [torch.tensor(float(number)) for number in (1, 2, 4, 9)], "data_samples": [*"abcd"]}
    optimizer = OptimWrapper(torch.optim.SGD(line.parameters(), lr=1.0))
    return line, step_in_parts(line if runs is None else runs(line), line, data, optimizer)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_teach_what_the_whole_does(parts):
    line, losses = stepped(parts)
    assert line.slope.item() == pytest.approx(3 - 4)
    assert {name: value.item() for name, value in losses.items()} == {"loss": 12, "loss_line": 12, "accuracy": 4}
    assert line.seen == [[*"abcd"][number::parts] for number in range(parts)]
    assert line.counted == [[*"abcd"]]


def test_processes_exchange_gradients_in_the_last_part_alone():
    marks = []

    class Wrapped:
        def __init__(self, line):
            self._line = line

        def _run_forward(self, data, mode):
            marks.append("forward")
            return self._line._run_forward(data, mode)

        @contextmanager
        def no_sync(self):
            marks.append("alone")
            yield
            marks.append("end")

    line, _ = stepped(2, Wrapped)
    assert marks == ["alone", "forward", "end", "forward"]
    assert line.slope.item() == pytest.approx(3 - 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_learns_in_parts(family):
    """Of labelled and other images as many in each."""
    sources = ["labelled", "labelled", "pseudo", "pseudo"]
    drawn = torch.Generator().manual_seed(0)
    data = {
        "inputs": [torch.randint(0, 256, (3, SIDE, SIDE), generator=drawn, dtype=torch.uint8) for _ in sources],
        "data_samples": [sample(instances(ONE, OTHER), source=source) for source in sources],
    }
    detector = build(family, batch_parts=2)
    seen = []
    detector.backbone.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    before = {name: value.clone() for name, value in detector.named_parameters()}
    losses = detector.train_step(data, OptimWrapper(torch.optim.SGD(detector.parameters(), lr=0.01)))
    assert seen == [2, 2]
    assert all(value.isfinite() for value in losses.values())
    assert {name.startswith("pseudo_") for name in losses} == {False, True}
    total = sum(value.item() for name, value in losses.items() if "loss" in name and name != "loss")
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)
    assert any(not torch.equal(value, before[name]) for name, value in detector.named_parameters())


def test_a_part_of_a_mask2former_divides_by_the_mean_count_of_masks():
    detector = build("Mask2Former", batch_parts=2)
    boxes = [(ONE, OTHER), (ONE,), (ONE, OTHER), ()]
    sources = ["labelled", "labelled", "pseudo", "pseudo"]
    samples = [sample(instances(*each), source=source) for each, source in zip(boxes, sources, strict=True)]
    detector.share_counts(samples)
    # An image without instances counts as one mask, as in MMDetection.
    assert [each.metainfo[MASKS_IN_ALL] for each in samples] == [1.5] * 4


def test_a_full_gpu_is_told_with_its_amounts_and_a_remedy():
    with pytest.raises(StageError) as caught, told_if_gpu_is_full("refine", "buy a larger one"):
        raise FULL
    assert str(caught.value) == (
        "refine: the memory of the GPU is full (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 7.75 GiB of which 1.00 GiB is free): buy a larger one"
    )


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^other$"), told_if_gpu_is_full("refine", "nothing"):
        raise RuntimeError("other")
