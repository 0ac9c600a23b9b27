"""Batches of similar lengths from recordings whose shards are elsewhere and do not fit the cache."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from mmssl.data.audio.batching import LengthBatches, check_shares
from mmssl.data.permutation import sorted_words
from mmssl.data.shards.listing import ShardRows
from mmssl.data.shards.order import SHARD_STREAM, fetch_ahead
from mmssl.data.source import FileSource


class WindowBatches:
    """Batches as :class:`~mmssl.data.audio.batching.LengthBatches` has them, from one window of shards at a time.

    Windows are the same shards in every epoch, so that the number of batches is; their order, that of their pieces and
    that of their batches are new.

    Args:
        lengths, budget, seed, rank, world_size, accumulation: as for ``LengthBatches``.
        shards: number of the shard of every piece.
        window: shards a window.
        ahead, layout: as for :class:`~mmssl.data.shards.order.WindowOrder`.
    """

    def __init__(
        self, lengths: Int64[np.ndarray, " piece"], shards: Int64[np.ndarray, " piece"], window: int, budget: int,
        seed: int, rank: int = 0, world_size: int = 1, accumulation: int = 1,
        ahead: Callable[[list[int]], None] | None = None, layout: str = "",
    ) -> None:  # fmt: skip
        self.rank, self.world_size, self.accumulation, self.seed = rank, world_size, accumulation, seed
        self.layout, self._ahead = layout, ahead
        self.window, self._shards = window, int(shards.max()) + 1
        groups = shards // window
        order = np.argsort(groups, kind="stable")
        self._numbers, firsts = np.unique(groups[order], return_index=True)
        self._pieces = np.split(order, firsts[1:])
        self._inside = [LengthBatches(lengths[pieces], budget, seed) for pieces in self._pieces]
        check_shares(min(batches.fewest for batches in self._inside), world_size, accumulation)
        self._counts = np.array([len(batches) for batches in self._inside], np.int64)
        self._length = int(self._counts.sum())
        self._seen: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._length

    def batch(self, step: int) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Numbers of this rank's pieces in a micro-batch (0, 1, 2 ...), longest first, and the epoch of each."""
        step, micro = divmod(step, self.accumulation)
        epoch, place = divmod(step, len(self))
        order = sorted_words(len(self._counts), self.seed, epoch, SHARD_STREAM)
        ends = np.cumsum(self._counts[order])
        nth = int(np.searchsorted(ends, place, side="right"))
        group = int(order[nth])
        begun = int(ends[nth - 1]) if nth else 0
        if self._ahead is not None and self._seen != (epoch, nth):
            self._seen = (epoch, nth)
            self._ahead([shard for number in order[nth : nth + 2].tolist() for shard in self._of(number)])
        chosen, epochs = self._inside[group].batch(epoch * len(self._inside[group]) + place - begun)
        mine = slice(micro + self.accumulation * self.rank, None, self.accumulation * self.world_size)
        return self._pieces[group][chosen[mine]], epochs[mine]

    def _of(self, group: int) -> range:
        """The shards of a window."""
        first = int(self._numbers[group]) * self.window
        return range(first, min(first + self.window, self._shards))


def batches_for(
    source: FileSource, recordings: Int64[np.ndarray, " piece"], lengths: Int64[np.ndarray, " piece"], budget: int,
    seed: int, rank: int = 0, world_size: int = 1, accumulation: int = 1,
) -> LengthBatches | WindowBatches:  # fmt: skip
    """Batches of pieces of the ``recordings``: from all of them wherever all of it is at hand."""
    rows = source.index
    window = rows.window() if isinstance(rows, ShardRows) else None
    if window is None or not isinstance(rows, ShardRows) or rows.split is None:
        return LengthBatches(lengths, budget, seed, rank, world_size, accumulation)
    shard = rows.column("shard")
    assert shard is not None
    shards = shard[recordings].astype(np.int64) - rows.index.facts.splits[rows.split].shards[0]
    return WindowBatches(
        lengths, shards, window, budget, seed, rank, world_size, accumulation, fetch_ahead(rows), rows.layout
    )  # fmt: skip
