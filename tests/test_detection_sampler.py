"""The sampler: batches of set sizes, exact shares, whole passes, the same whatever the ranks, and a start anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, Dataset

from pipeline.detection import sampler as sampler_module
from pipeline.detection.passes import Passes, repeat_factors
from pipeline.detection.sampler import Apportionment, MixtureSampler
from pipeline.errors import StageError


class Items:
    def __init__(self, length: int, repeats: np.ndarray | None = None) -> None:
        self.length, self.repeats = length, repeats

    def __len__(self) -> int:
        return self.length


class Names(Dataset):
    """A mixture of sources whose samples are their own names."""

    def __init__(self, *lengths: int, repeats: np.ndarray | None = None) -> None:
        self.datasets = [Items(length, None if number else repeats) for number, length in enumerate(lengths)]

    def __getitem__(self, sample):
        return sample


def sampler(lengths, batch_size, amounts, seed=0, rank=0, ranks=1, monkeypatch=None) -> MixtureSampler:
    if monkeypatch:
        monkeypatch.setattr(sampler_module, "get_dist_info", lambda: (rank, ranks))
    return MixtureSampler(Names(*lengths), [batch_size], [amounts], seed)


def drawn(made: MixtureSampler, count: int) -> list:
    return list(islice(iter(made), count))


def counts(amounts, batch_size, batches, first=0) -> list[list[int]]:
    return [taken for _, taken in islice(Apportionment(amounts, batch_size).batches(first), batches)]


def test_what_a_batch_cannot_have_is_carried_over():
    assert counts([1, 1, 1], 8, 4) == [[3, 3, 2], [3, 2, 3], [2, 3, 3], [3, 3, 2]]
    assert counts([0.1, 0.2], 3, 2) == [[1, 2], [1, 2]]
    assert Apportionment([0.1, 0.2], 3).period == 1


AMOUNTS = st.lists(st.floats(0.01, 100).map(lambda amount: round(amount, 2)), min_size=1, max_size=3)


@pytest.mark.slow
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
    reason = "cannot be filled: each of its sources is empty or has the amount 0"
    with pytest.raises(StageError, match=f"A batch of 2 images {reason}"):
        sampler([0, 3], 2, [1, 0])
    with pytest.raises(StageError, match=f"A batch of 5 images {reason}"):
        MixtureSampler(Names(3, 0, 4), [2, 5], [[1], [1, 0]], 0)
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


def two_batches(rank: int, ranks: int, monkeypatch, sizes=(12, 12), seed=3) -> MixtureSampler:
    """A labelled batch, and an unlabelled one of pseudo-labelled images and composites. sizes: of all ranks."""
    monkeypatch.setattr(sampler_module, "get_dist_info", lambda: (rank, ranks))
    return MixtureSampler(Names(9, 31, 31), [size // ranks for size in sizes], [[1], [1, 1]], seed)


@pytest.mark.parametrize("sizes", [(12, 12), (4, 8), (8, 4)])
def test_every_step_has_both_batches_in_full(monkeypatch, sizes):
    samples = drawn(two_batches(0, 1, monkeypatch, sizes), 20 * sum(sizes))
    for step in range(20):
        kinds = [sample.source for sample in samples[step * sum(sizes) : (step + 1) * sum(sizes)]]
        assert kinds == [0] * sizes[0] + [1] * (sizes[1] // 2) + [2] * (sizes[1] // 2)
    for source in range(3):
        assert [sample.draw for sample in samples if sample.source == source] == list(
            range(20 * (sizes[0] if source == 0 else sizes[1] // 2))
        )


@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 12])
def test_every_rank_has_its_part_of_both_batches(monkeypatch, ranks):
    whole = drawn(two_batches(0, 1, monkeypatch), 10 * 24)
    own = 24 // ranks
    parts = [drawn(two_batches(rank, ranks, monkeypatch), 10 * own) for rank in range(ranks)]
    for step in range(10):
        shared = [part[step * own : (step + 1) * own] for part in parts]
        assert Counter(chain.from_iterable(shared)) == Counter(whole[step * 24 : (step + 1) * 24])
        for part in shared:
            assert [sample.source == 0 for sample in part] == [True] * (own // 2) + [False] * (own // 2)
        composites = [sum(sample.source == 2 for sample in part) for part in shared]
        assert max(composites) - min(composites) == (own // 2) % 2  # 6 composites of 12


@pytest.mark.parametrize("skipped", [0, 1, 7, 12, 24, 1003])
def test_skipping_goes_over_both_batches(monkeypatch, skipped):
    for rank in range(2):
        made = two_batches(rank, 2, monkeypatch, (4, 8))
        expected = drawn(made, skipped + 30)[skipped:]
        made.skip(skipped)
        assert drawn(made, 30) == expected


def last_alone(rank: int, ranks: int, monkeypatch) -> MixtureSampler:
    """Batches of 4 and 8 images of all ranks, and from step 5 on 12 labelled ones."""
    monkeypatch.setattr(sampler_module, "get_dist_info", lambda: (rank, ranks))
    return MixtureSampler(Names(9, 31, 31), [4 // ranks, 8 // ranks], [[1], [1, 1]], 3, first_alone_from=5)


def test_the_last_steps_have_images_of_the_first_batch_alone(monkeypatch):
    samples = drawn(last_alone(0, 1, monkeypatch), 9 * 12)
    assert samples[: 5 * 12] == drawn(two_batches(0, 1, monkeypatch, (4, 8)), 5 * 12)
    assert [sample.source for sample in samples[5 * 12 :]] == [0] * 4 * 12
    # No labelled image is left out or shown twice where the steps change.
    labelled = [sample.draw for sample in samples if sample.source == 0]
    assert labelled == list(range(5 * 4 + 4 * 12))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_last_steps_too(monkeypatch, ranks):
    whole, own = drawn(last_alone(0, 1, monkeypatch), 9 * 12), 12 // ranks
    parts = [drawn(last_alone(rank, ranks, monkeypatch), 9 * own) for rank in range(ranks)]
    for step in range(9):
        shared = [part[step * own : (step + 1) * own] for part in parts]
        assert Counter(chain.from_iterable(shared)) == Counter(whole[step * 12 : (step + 1) * 12])


@pytest.mark.parametrize("skipped", [0, 7, 29, 30, 31, 36, 50, 1003])
def test_skipping_goes_over_the_last_steps_too(monkeypatch, skipped):
    for rank in range(2):
        made = last_alone(rank, 2, monkeypatch)
        expected = drawn(made, skipped + 20)[skipped:]
        made.skip(skipped)
        assert drawn(made, 20) == expected


def naive_factors(classes: list[set[int]], threshold: float) -> list[float]:
    """The factors by their definition in LVIS, class by class and image by image."""
    factors = []
    for own in classes:
        factor = 1.0
        for category in own:
            share = sum(category in other for other in classes) / len(classes)
            factor = max(factor, (threshold / share) ** 0.5)
        factors.append(factor)
    return factors


def test_factors_of_an_example():
    classes = [{1}, {1}, {1, 2}, {3, 1}, set(), {1}, {1}, {1}]
    # Shares: 7 / 8, 1 / 8, 1 / 8.
    assert repeat_factors(classes, 0.5).tolist() == [1, 1, 2, 2, 1, 1, 1, 1]
    assert repeat_factors(classes, 3.5).tolist() == [2, 2, 28**0.5, 28**0.5, 1, 2, 2, 2]
    assert repeat_factors(classes, 0.125).tolist() == [1] * 8


@given(
    st.lists(st.sets(st.integers(1, 6), max_size=4), min_size=1, max_size=30), st.sampled_from([1e-3, 0.1, 0.5, 1, 10])
)
def test_factors_are_those_of_a_naive_computation(classes, threshold):
    np.testing.assert_allclose(repeat_factors(classes, threshold), naive_factors(classes, threshold), rtol=1e-12)


REPEATS = np.array([1, 1.25, 2, 3.5, 1, 7.9])


def passes_of(seed: int, repeats: np.ndarray, count: int) -> list[list[int]]:
    """The items of the first passes, told apart by the length that their counts say."""
    passes = Passes(seed, 0, len(repeats), repeats)
    made, draw = [], 0
    for number in range(count):
        length = int(passes._counts(number).sum())
        made.append([passes.sample(each).item for each in range(draw, draw + length)])
        draw += length
    return made


def test_every_pass_has_each_item_as_often_as_it_is_due_rounded_up_or_down():
    made = passes_of(5, REPEATS, 2000)
    counts = np.array([[one.count(item) for item in range(len(REPEATS))] for one in made])
    assert ((counts == np.floor(REPEATS)) | (counts == np.ceil(REPEATS))).all()
    # The mean of 2,000 roundings: 5 standard errors are at most 5 * 0.5 / sqrt(2000).
    assert np.abs(counts.mean(axis=0) - REPEATS).max() < 0.056
    rounded_up = (counts > np.floor(REPEATS))[:, [1, 3, 5]]
    assert np.abs(np.corrcoef(rounded_up.T) - np.eye(3)).max() < 0.12  # each item by itself
    orders = {tuple(one) for one in made}
    assert len(orders) == 2000


def test_a_pass_follows_from_seed_and_number_alone():
    whole = list(chain.from_iterable(passes_of(5, REPEATS, 50)))
    for start in (0, 1, 17, 400, 803):
        fresh = Passes(5, 0, len(REPEATS), REPEATS)
        assert [fresh.sample(draw).item for draw in range(start, start + 20)] == whole[start : start + 20]
    backwards = Passes(5, 0, len(REPEATS), REPEATS)
    assert [backwards.sample(draw).item for draw in reversed(range(200))] == whole[199::-1]
    assert passes_of(6, REPEATS, 3) != passes_of(5, REPEATS, 3)
    assert [Passes(5, 1, len(REPEATS), REPEATS).sample(draw).item for draw in range(60)] != whole[:60]


def test_whole_repeats_are_exact_and_none_are_no_other_order():
    twice = passes_of(1, np.array([2.0, 1.0, 3.0]), 20)
    assert all(sorted(one) == [0, 0, 1, 2, 2, 2] for one in twice)
    plain, ones = Passes(1, 0, 7), Passes(1, 0, 7, np.ones(7))
    assert [plain.sample(draw) for draw in range(70)] == [ones.sample(draw) for draw in range(70)]


def test_repeats_are_the_same_for_any_ranks_and_from_any_start(monkeypatch):
    def made(rank: int, ranks: int, skipped: int) -> list:
        monkeypatch.setattr(sampler_module, "get_dist_info", lambda: (rank, ranks))
        dataset = Names(6, 11, repeats=REPEATS)
        each = MixtureSampler(dataset, [4 // ranks, 8 // ranks], [[1], [1]], 2)
        each.skip(skipped // ranks)
        return drawn(each, (360 - skipped) // ranks)

    whole = made(0, 1, 0)
    assert made(0, 1, 120) == whole[120:]
    parts = [made(rank, 2, 120) for rank in range(2)]
    for step in range(20):
        shared = [*parts[0][step * 6 : (step + 1) * 6], *parts[1][step * 6 : (step + 1) * 6]]
        assert Counter(shared) == Counter(whole[120 + step * 12 : 120 + (step + 1) * 12])
    labelled = Counter(sample.item for sample in whole if sample.source == 0)
    assert labelled[5] > labelled[3] > labelled[2] > labelled[4]
    others = Counter(sample.item for sample in whole if sample.source == 1)
    assert max(others.values()) - min(others.values()) <= 1  # repeats are those of their own source
