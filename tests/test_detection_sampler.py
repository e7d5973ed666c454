"""The sampler: exact shares, whole passes, the same batches whatever the ranks, and a start anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, Dataset

from pipeline.detection import sampler as sampler_module
from pipeline.detection.sampler import Apportionment, MixtureSampler
from pipeline.errors import StageError


class Names(Dataset):
    """A mixture of sources whose samples are their own names."""

    def __init__(self, *lengths: int) -> None:
        self.datasets = [range(length) for length in lengths]

    def __getitem__(self, sample):
        return sample


def sampler(lengths, batch_size, amounts, seed=0, rank=0, ranks=1, monkeypatch=None) -> MixtureSampler:
    if monkeypatch:
        monkeypatch.setattr(sampler_module, "get_dist_info", lambda: (rank, ranks))
    return MixtureSampler(Names(*lengths), batch_size, amounts, seed)


def drawn(made: MixtureSampler, count: int) -> list:
    return list(islice(iter(made), count))


def counts(amounts, batch_size, batches, first=0) -> list[list[int]]:
    return [taken for _, taken in islice(Apportionment(amounts, batch_size).batches(first), batches)]


def test_what_a_batch_cannot_have_is_carried_over():
    assert counts([1, 1, 1], 8, 4) == [[3, 3, 2], [3, 2, 3], [2, 3, 3], [3, 3, 2]]
    assert counts([0.1, 0.2], 3, 2) == [[1, 2], [1, 2]]
    assert Apportionment([0.1, 0.2], 3).period == 1


AMOUNTS = st.lists(st.floats(0.01, 100).map(lambda amount: round(amount, 2)), min_size=1, max_size=3)


@given(AMOUNTS, st.integers(1, 20), st.integers(0, 300))
def test_shares_hold_over_any_time_from_any_start(amounts, batch_size, first):
    made = list(islice(Apportionment(amounts, batch_size).batches(0), first + 3))
    before = [0] * len(amounts)
    for number, (drawn_before, taken) in enumerate(made):
        assert drawn_before == before
        assert sum(taken) == batch_size
        assert min(taken) >= 0
        before = [sum(pair) for pair in zip(before, taken, strict=True)]
        for amount, total in zip(amounts, before, strict=True):
            assert abs(total - amount / sum(amounts) * batch_size * (number + 1)) < 1 + 1e-6
    assert list(islice(Apportionment(amounts, batch_size).batches(first), 3)) == made[first:]


def test_every_pass_shows_each_item_once_in_another_order():
    samples = drawn(sampler([5, 7], 4, [1, 1]), 140)
    for source, length in enumerate([5, 7]):
        own = [sample for sample in samples if sample.source == source]
        assert [sample.draw for sample in own] == list(range(70))
        passes = [tuple(sample.item for sample in own[start : start + length]) for start in range(0, 70, length)]
        assert all(sorted(each) == list(range(length)) for each in passes)
        assert len(set(passes)) > 1


def test_the_seed_decides():
    first = drawn(sampler([50], 4, [1]), 40)
    assert drawn(sampler([50], 4, [1]), 40) == first
    other = drawn(sampler([50], 4, [1], seed=1), 40)
    assert [sample.item for sample in other] != [sample.item for sample in first]


@pytest.mark.parametrize("amounts", [[1, 1, 1], [1, 2, 0.5], [3, 1, 1]])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_share_the_batches_of_one(monkeypatch, ranks, amounts):
    whole = drawn(sampler([9, 11, 30], 16, amounts, monkeypatch=monkeypatch), 160)
    per_rank = 16 // ranks
    parts = [
        drawn(sampler([9, 11, 30], per_rank, amounts, rank=rank, ranks=ranks, monkeypatch=monkeypatch), 10 * per_rank)
        for rank in range(ranks)
    ]
    for batch in range(10):
        shared = [part[batch * per_rank : (batch + 1) * per_rank] for part in parts]
        expected = whole[batch * 16 : (batch + 1) * 16]
        assert Counter(chain.from_iterable(shared)) == Counter(expected)
        labelled = [sum(sample.source == 0 for sample in part) for part in shared]
        assert max(labelled) - min(labelled) <= 1


def test_sources_without_items_or_amount_are_left_out():
    samples = drawn(sampler([4, 0, 6, 3], 5, [1, 5, 0, 1]), 50)
    assert Counter(sample.source for sample in samples) == {0: 25, 3: 25}


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(StageError, match="nothing to train on"):
        sampler([0, 3], 2, [1, 0])
    with pytest.raises(StageError, match="1 amounts for 2 datasets"):
        sampler([2, 3], 2, [1])


@pytest.mark.parametrize("skipped", [0, 1, 7, 64, 1003])
def test_skipping_is_as_if_drawn(monkeypatch, skipped):
    for rank in range(2):
        made = sampler([9, 70, 31], 8, [1, 1, 0.7], rank=rank, ranks=2, monkeypatch=monkeypatch)
        expected = drawn(made, skipped + 30)[skipped:]
        made.skip(3)
        made.skip(skipped)
        assert drawn(made, 30) == expected


def test_mmengine_resumes_by_skipping():
    def batches(skipped: int) -> list:
        made = sampler([9, 70], 8, [1, 2])
        iterator = _InfiniteDataloaderIterator(DataLoader(Names(9, 70), 8, sampler=made, collate_fn=list))
        iterator.skip_iter(skipped)
        return list(islice(iterator, 30 - skipped))

    assert batches(20) == batches(0)[20:]


def test_a_long_way_is_skipped_without_walking_it():
    made = sampler([1000, 5000], 16, [1, 3])
    made.skip(10**15)
    assert drawn(made, 1)[0].draw == 10**15 // 4
