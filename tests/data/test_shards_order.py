"""The order of samples whose shards are fetched: by windows, as arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data.audio.batching import LengthBatches
from mmssl.data.audio.window_batches import WindowBatches
from mmssl.data.shards.order import WindowOrder, order_in_words
from mmssl.data.usable import Usable
from mmssl.errors import UserError

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=14).filter(lambda sizes: sum(sizes) > 0)


def stream(orders: list, steps: int, start: int = 0) -> list[tuple[int, int]]:
    pairs = []
    for step in range(start, start + steps):
        for order in orders:
            ids, epochs = order.batch(step)
            pairs += list(zip(epochs.tolist(), ids.tolist(), strict=True))
    return pairs


@given(
    sizes=SIZES, window=st.integers(1, 20), batch=st.integers(1, 9), world=st.integers(1, 4), seed=st.integers(-3, 9),
    start=st.integers(0, 7),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_epochs_are_permutations_that_ranks_share_and_resuming_is_an_offset(
    sizes: list[int], window: int, batch: int, world: int, seed: int, start: int
) -> None:
    count = sum(sizes)
    stored = np.random.default_rng(0).permutation(count)
    starts = np.cumsum(sizes) - sizes

    def make(rank: int, world_size: int, batch_size: int) -> WindowOrder:
        return WindowOrder(stored, starts, window, batch_size, seed, rank, world_size)

    steps = 2 * count // (batch * world) + 1
    pairs = stream([make(rank, world, batch) for rank in range(world)], steps)
    for epoch in (0, 1):
        assert sorted(index for when, index in pairs if when == epoch) == list(range(count))
    # one rank that takes all sees the same stream, and so does a run that begins in the middle
    assert stream([make(0, 1, batch * world)], steps) == pairs
    again = stream([make(rank, world, batch) for rank in range(world)], 3, start)
    assert again == stream([make(0, 1, batch * world)], 3, start)
    assert make(0, 1, 1).permutation(1).tolist() == [index for when, index in pairs if when == 1]


def test_a_window_holds_its_shards_and_no_others_and_the_next_are_asked_for() -> None:
    sizes = np.array([5, 3, 8, 4, 6, 2, 7])
    stored = np.random.default_rng(1).permutation(sizes.sum())
    shard_of = np.empty(len(stored), int)
    shard_of[stored] = np.repeat(np.arange(7), sizes)
    asked: list[list[int]] = []
    order = WindowOrder(stored, np.cumsum(sizes) - sizes, 3, 1, 6, ahead=asked.append)
    for epoch in (0, 1):
        shards, place = order.shards(epoch).tolist(), 0
        seen = shard_of[[order.batch(epoch * 35 + step)[0][0] for step in range(35)]]
        for first in (0, 3, 6):
            inside = shards[first : first + 3]
            length = sizes[inside].sum()
            assert sorted(set(seen[place : place + length].tolist())) == sorted(inside)
            place += length
    assert order.shards(0).tolist() != order.shards(1).tolist()
    first, second = order.shards(0).tolist(), order.shards(1).tolist()
    assert asked[:3] == [first[0:6], first[3:7], [first[6], *second[:3]]]
    assert len(asked) == 6


def test_samples_for_statistics_come_from_one_window() -> None:
    order = WindowOrder(np.arange(40), range(0, 40, 4), 3, 4, 0)
    assert order.nearby(6).tolist() == [0, 2, 4, 6, 8, 10]
    assert order.nearby(100).tolist() == list(range(12))
    assert "3 shards at a time" in order_in_words(order)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), window=st.integers(1, 4), world=st.integers(1, 3),
    seed=st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_batches_of_similar_lengths_hold_every_piece_once_an_epoch(
    lengths: list[int], window: int, world: int, seed: int
) -> None:
    pieces = np.array(lengths, np.int64)
    shards = np.arange(len(pieces), dtype=np.int64) // 7
    alone = WindowBatches(pieces, shards, window, 50, seed)
    if min(len(alone.batch(step)[0]) for step in range(len(alone))) < world:
        with pytest.raises(UserError, match="cannot be shared among"):
            WindowBatches(pieces, shards, window, 50, seed, 0, world)
        return
    make = [WindowBatches(pieces, shards, window, 50, seed, rank, world) for rank in range(world)]
    for step in range(3):
        assert sorted(np.concatenate([one.batch(step)[0] for one in make])) == sorted(alone.batch(step)[0])
    pairs = stream(make, 2 * len(make[0]) + 1)
    for epoch in (0, 1):
        assert sorted(index for when, index in pairs if when == epoch) == list(range(len(pieces)))
    for step in range(4):
        chosen, _ = make[0].batch(step)
        assert len(chosen) * pieces[chosen].max() <= 50
        assert len(set((shards[chosen] // window).tolist())) == 1


def test_one_window_of_all_shards_batches_as_without_shards() -> None:
    lengths = np.random.default_rng(2).integers(5, 40, 50)
    ours = WindowBatches(lengths, np.arange(50) // 9, 100, 90, 4)
    theirs = LengthBatches(lengths, 90, 4)
    assert stream([ours], 30) == stream([theirs], 30)


@given(count=st.integers(1, 40), failed=st.sets(st.integers(0, 39)))
@settings(max_examples=60, deadline=None)
def test_usable_samples_are_all_but_the_failed_ones(count: int, failed: set[int]) -> None:
    failed = {number for number in failed if number < count}
    usable = Usable(count, failed)
    expected = [number for number in range(count) if number not in failed]
    assert len(usable) == len(expected)
    assert usable.tolist() == expected
    assert usable.places(np.array(expected, np.int64)).tolist() == list(range(len(expected)))


@pytest.mark.parametrize("window", [1, 2, 5])
def test_every_epoch_mixes_anew(window: int) -> None:
    order = WindowOrder(np.arange(1000), range(0, 1000, 50), window, 1, 3)
    first, second = order.permutation(0), order.permutation(1)
    together = set(zip(first[:-1].tolist(), first[1:].tolist(), strict=True))
    again = sum(pair in together for pair in zip(second[:-1].tolist(), second[1:].tolist(), strict=True))
    # of 999 pairs about window * 50 partners compete to be the next one
    assert again < 60 / window
