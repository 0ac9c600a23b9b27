"""The order of training samples is arithmetic, not history: order = f(seed, epoch), resuming is an offset.

Training reads one endless stream: epoch 0, epoch 1, ... one after the other. Position p of the stream belongs to epoch
p // n and is sample permutation(seed, epoch)[p % n]. A step takes the next ``batch_size`` positions on each rank, so
batches always have the same size, may straddle two epochs, and no sample is lost or repeated at an epoch's end. Nothing
has to be saved to resume but the step; workers, their number and what they prefetched play no part.

Up to HELD samples a permutation is sorted and held; of larger sets it is computed place by place
(:mod:`mmssl.data.permutation`), so that the order takes neither memory nor time to start, whatever their size.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from mmssl.data.permutation import permuted, sorted_words
from mmssl.errors import UserError

HELD = 2**24
"""Samples up to which a permutation is held: 128 MiB, sorted in about two seconds. Changing it changes the order of
runs on larger sets."""


class Order:
    """Which samples each step reads.

    Args:
        length: number of samples, n.
        batch_size: samples a step on each rank.
        seed: any integer of 64 bits.
        rank, world_size: a step reads world_size * batch_size positions; rank r takes the r-th run of batch_size.

    Raises:
        UserError: for an empty set, a batch without samples, or a rank outside the world.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if length < 1:
            raise UserError("there is no sample to put in order: the data is empty")
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is impossible: choose 1 or more")
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} is not one of the {world_size} ranks 0 to {world_size - 1}")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._permutations: dict[int, Int64[np.ndarray, " sample"]] = {}

    def permutation(self, epoch: int) -> Int64[np.ndarray, " sample"]:
        """The order of one epoch, a function of (seed, epoch)."""
        if self.length > HELD:
            return permuted(np.arange(self.length), self.length, self.seed, epoch)
        if epoch not in self._permutations:
            # a batch meets at most a few epochs; more than that is only for sets smaller than a batch
            if len(self._permutations) >= 4:
                del self._permutations[min(self._permutations)]
            self._permutations[epoch] = sorted_words(self.length, self.seed, epoch)
        return self._permutations[epoch]

    def at(self, epoch: int, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        """The samples at some places of an epoch."""
        if self.length > HELD:
            return permuted(places, self.length, self.seed, epoch)
        return self.permutation(epoch)[places]

    def batch(self, step: int) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Sample indices and the epoch of each, for this rank at this step (0, 1, 2 ...)."""
        start = (step * self.world_size + self.rank) * self.batch_size
        epochs, places = np.divmod(np.arange(start, start + self.batch_size, dtype=np.int64), self.length)
        indices = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = self.at(int(epoch), places[chosen])
        return indices, epochs

    def step_of_epoch(self, epoch: int) -> float:
        """The step, fractional, at which an epoch begins."""
        return epoch * self.length / (self.batch_size * self.world_size)


EVERYTHING = (0, 1)
"""The share ``(rank, ranks)`` of a process that reads all there is. Rank r of n reads batches r, r + n, r + 2n ... of a
row that does not depend on n."""


@runtime_checkable
class Steps(Protocol):
    """Anything that says which samples a step reads: an :class:`Order`, or batches of similar lengths."""

    def batch(self, step: int) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Sample indices and the epoch of each."""
        ...


class OrderSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler for a torch DataLoader: lists of (epoch, index) from any step on, without end."""

    def __init__(self, order: Steps, start_step: int = 0) -> None:
        self.order, self.start_step = order, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        while True:
            indices, epochs = self.order.batch(step)
            yield list(zip(epochs.tolist(), indices.tolist(), strict=True))
            step += 1
