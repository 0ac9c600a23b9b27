import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mmssl.data.delivery import read_batches
from mmssl.data.order import Order, OrderSampler
from mmssl.errors import UserError


class Echo(Dataset):
    """Gives back what it is asked for."""

    def __getitems__(self, pairs: list[tuple[int, int]]) -> torch.Tensor:
        return torch.tensor(pairs)


def stream(order: Order, steps: int) -> list[tuple[int, int]]:
    pairs = []
    for step in range(steps):
        ids, epochs = order.batch(step)
        pairs += list(zip(epochs.tolist(), ids.tolist(), strict=True))
    return pairs


def test_every_epoch_is_a_permutation_and_epochs_follow_without_gap() -> None:
    pairs = stream(Order(10, 4, seed=3), 10)
    assert [epoch for epoch, _ in pairs] == [epoch for epoch in range(4) for _ in range(10)]
    for epoch in range(4):
        assert sorted(index for e, index in pairs if e == epoch) == list(range(10))


def test_orders_differ_by_epoch_and_seed_and_repeat_by_both() -> None:
    order = Order(1000, 10, seed=5)
    again = Order(1000, 7, seed=5)
    assert np.array_equal(order.permutation(2), again.permutation(2))
    assert not np.array_equal(order.permutation(2), order.permutation(3))
    assert not np.array_equal(order.permutation(2), Order(1000, 10, seed=6).permutation(2))


def test_order_is_fixed_for_ever() -> None:
    """Literal, because a run resumed with another version of numpy or of ours must go on with the same samples."""
    assert Order(12, 12, seed=0).batch(0)[0].tolist() == [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]
    assert Order(12, 12, seed=-1).batch(3)[0].tolist() == [3, 2, 8, 0, 1, 10, 6, 11, 9, 5, 4, 7]


def test_permutations_are_uniform() -> None:
    """Each sample is at each place equally often: chi-squared with 49 cells around its mean."""
    places = np.array([Order(7, 1, seed).permutation(epoch) for seed in range(50) for epoch in range(40)])
    counts = np.array([np.bincount(places[:, place], minlength=7) for place in range(7)])
    expected = len(places) / 7
    # 36 degrees of freedom: mean 36, standard deviation 8.5
    assert 36 - 4 * 8.5 < ((counts - expected) ** 2 / expected).sum() < 36 + 4 * 8.5


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_stream_without_duplicates_or_gaps(world_size: int) -> None:
    alone = stream(Order(11, 6, seed=1), 8)
    ranks = [Order(11, 6 // world_size, 1, rank, world_size) for rank in range(world_size)]
    together = [
        pair
        for step in range(8)
        for order in ranks
        for pair in zip(*(x.tolist() for x in order.batch(step)[::-1]), strict=True)
    ]
    assert together == alone


def test_a_set_smaller_than_a_batch() -> None:
    pairs = stream(Order(3, 8, seed=0), 3)
    assert len(pairs) == 24
    assert all(sorted(i for e, i in pairs if e == epoch) == [0, 1, 2] for epoch in range(8))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_loader_resumed_at_any_step_goes_on_exactly(workers: int) -> None:
    order = Order(13, 4, seed=2)
    full = [order.batch(step) for step in range(12)]
    for start in (0, 5):
        batches = read_batches(Echo(), OrderSampler(order, start), workers, pin=False)
        for (ids, epochs), batch in zip(full[start:], itertools.islice(batches, 12 - start), strict=True):
            assert batch.tolist() == np.stack((epochs, ids), 1).tolist()


def test_impossible_orders_are_refused() -> None:
    for arguments, named in (((0, 4, 0), "empty"), ((4, 0, 0), "batch size 0"), ((4, 1, 0, 2, 2), "rank 2")):
        with pytest.raises(UserError, match=named):
            Order(*arguments)
