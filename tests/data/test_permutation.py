"""Permutations that are computed place by place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.data import order as order_module
from mmssl.data.order import Order
from mmssl.data.permutation import permuted, sorted_words


@given(length=st.integers(1, 3000), seed=st.integers(-5, 2**64), epoch=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_it_is_a_permutation_of_any_length(length: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(length), length, seed, epoch)), np.arange(length))


def test_places_of_a_set_of_10_to_the_14_stay_within_it_and_apart() -> None:
    length = 10**14 + 7
    places = np.concatenate((np.arange(2000), length - 1 - np.arange(2000), np.arange(2000) * 50_000_000_021))
    sent = permuted(places, length, 3, 1)
    assert sent.min() >= 0
    assert sent.max() < length
    assert len(np.unique(sent)) == len(np.unique(places))
    # half of all places are in the lower half: within five standard deviations
    assert abs((sent < length // 2).mean() - 0.5) < 5 * 0.5 / len(places) ** 0.5


def test_a_place_does_not_depend_on_the_others() -> None:
    whole = permuted(np.arange(1000), 1000, 8, 2)
    assert permuted(np.array([3, 997, 3]), 1000, 8, 2).tolist() == [whole[3], whole[997], whole[3]]
    assert not np.array_equal(whole, permuted(np.arange(1000), 1000, 8, 3))
    assert not np.array_equal(whole, permuted(np.arange(1000), 1000, 9, 2))


def test_it_is_fixed_for_ever() -> None:
    """Literal: a run that is resumed with another version must go on with the same samples."""
    assert permuted(np.arange(12), 12, 0, 0).tolist() == [5, 10, 1, 8, 7, 9, 0, 4, 3, 11, 6, 2]
    assert permuted(np.array([0, 10**8 - 1]), 10**8, 5, 7).tolist() == [55419561, 32121747]


def test_permutations_are_uniform() -> None:
    """Each sample at each place, and each successor of a sample, equally often: chi-squared."""
    rows = np.array([permuted(np.arange(7), 7, seed, epoch) for seed in range(40) for epoch in range(15)])
    places = np.array([np.bincount(rows[:, place], minlength=7) for place in range(7)])
    expected = len(rows) / 7
    # 36 degrees of freedom: mean 36, standard deviation 8.5
    assert ((places - expected) ** 2 / expected).sum() < 36 + 4 * 8.5
    pairs = np.bincount((rows[:, :-1] * 7 + rows[:, 1:]).ravel(), minlength=49).reshape(7, 7)
    assert np.diag(pairs).sum() == 0
    apart = pairs[~np.eye(7, dtype=bool)]
    # 41 degrees of freedom: mean 41, standard deviation 9
    assert ((apart - apart.mean()) ** 2 / apart.mean()).sum() < 41 + 4 * 9


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_large_set_is_gone_through_like_a_small_one(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    monkeypatch.setattr(order_module, "HELD", 50)
    orders = [Order(101, 8, 4, rank, world_size) for rank in range(world_size)]
    found: dict[int, list[int]] = {}
    for step in range(101 * 2 // (8 * world_size) + 1):
        for order in orders:
            ids, epochs = order.batch(step)
            for index, epoch in zip(ids.tolist(), epochs.tolist(), strict=True):
                found.setdefault(epoch, []).append(index)
    assert found[0] == orders[0].permutation(0).tolist()
    assert sorted(found[0]) == sorted(found[1]) == list(range(101))
    assert found[0] != found[1]
    assert not orders[0]._permutations


def test_up_to_the_threshold_the_order_is_the_one_that_runs_had_before() -> None:
    assert order_module.HELD == 2**24
    assert np.array_equal(Order(1000, 4, 9).permutation(3), sorted_words(1000, 9, 3))
