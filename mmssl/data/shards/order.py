"""The order of samples whose shards are elsewhere and do not fit the cache: shuffled a window of shards at a time.

A full permutation would need every shard at once. Here each epoch puts the shards in an order of its own, takes them
``window`` at a time, and shuffles the samples of each window among themselves. All of it is a function of (seed, epoch)
as in :mod:`mmssl.data.order`: every epoch is a permutation, ranks share one stream without gap or repetition, and
resuming is an offset. Since samples are stored in random order (unless ``--order given`` was asked for), the samples of
any few shards are a random part of all.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from mmssl.data.order import Order
from mmssl.data.permutation import sorted_words
from mmssl.data.shards.cache import VARIABLE, Readahead
from mmssl.data.shards.listing import ShardRows
from mmssl.data.source import FileSource
from mmssl.data.usable import Usable

SHARD_STREAM, WINDOW_STREAM = 1, 2
"""Streams of random words: the order of shards; the first window, the others follow. 0 is :class:`Order`'s own."""


class WindowOrder(Order):
    """An :class:`Order` of samples that lie in shards.

    Args:
        stored: the samples in the order in which they are stored, anything that is indexed by arrays.
        starts: place there at which each shard begins.
        window: shards that are shuffled together.
        batch_size, seed, rank, world_size: as for :class:`Order`.
        ahead: called with the shards of a window and of the next one when the first of its samples is asked for.
        layout: what tells these shards from others of the same samples, for :func:`order_in_words`.
    """

    def __init__(
        self, stored: np.ndarray, starts: Sequence[int] | Int64[np.ndarray, " shard"], window: int, batch_size: int,
        seed: int, rank: int = 0, world_size: int = 1, ahead: Callable[[list[int]], None] | None = None,
        layout: str = "",
    ) -> None:  # fmt: skip
        super().__init__(len(stored), batch_size, seed, rank, world_size)
        self.stored, self.window, self.layout, self._ahead = stored, window, layout, ahead
        self._starts = np.asarray(starts, np.int64)
        self._sizes = np.diff(np.append(self._starts, len(stored)))
        self._layouts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._shuffled: dict[tuple[int, int], Int64[np.ndarray, " place"]] = {}

    def shards(self, epoch: int) -> Int64[np.ndarray, " shard"]:
        """The shards in the order of an epoch."""
        return self._layout(epoch)[0]

    def permutation(self, epoch: int) -> Int64[np.ndarray, " sample"]:
        """The order of one epoch, whole."""
        return self.at(epoch, np.arange(self.length))

    def nearby(self, count: int) -> Int64[np.ndarray, " sample"]:
        """``count`` samples, ascending, from no more shards than a window has."""
        stop = int(np.append(self._starts, self.length)[min(self.window, len(self._starts))])
        count = min(count, stop)
        return np.sort(self.stored[np.arange(count) * stop // count].astype(np.int64))

    def _layout(self, epoch: int) -> tuple[Int64[np.ndarray, " shard"], Int64[np.ndarray, " shard_and_end"]]:
        """The shards in order, and where each begins in the epoch."""
        if epoch not in self._layouts:
            if len(self._layouts) >= 4:
                del self._layouts[min(self._layouts)]
            order = sorted_words(len(self._sizes), self.seed, epoch, SHARD_STREAM)
            self._layouts[epoch] = (order, np.concatenate(([0], np.cumsum(self._sizes[order]))))
        return self._layouts[epoch]

    def at(self, epoch: int, places: Int64[np.ndarray, " place"]) -> Int64[np.ndarray, " place"]:
        order, begins = self._layout(epoch)
        edges = begins[:: self.window]
        numbers = np.searchsorted(edges, places, side="right") - 1
        result = np.empty(len(places), np.int64)
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            inside = self._window(epoch, number)[places[chosen] - edges[number]] + edges[number]
            nth = np.searchsorted(begins, inside, side="right") - 1
            result[chosen] = self.stored[self._starts[order[nth]] + inside - begins[nth]]
        return result

    def _window(self, epoch: int, number: int) -> Int64[np.ndarray, " place"]:
        """The places of a window, shuffled."""
        if (epoch, number) not in self._shuffled:
            if len(self._shuffled) >= 4:
                del self._shuffled[min(self._shuffled)]
            order, begins = self._layout(epoch)
            first, stop = number * self.window, min((number + 1) * self.window, len(order))
            length = int(begins[stop] - begins[first])
            self._shuffled[epoch, number] = sorted_words(length, self.seed, epoch, WINDOW_STREAM + number)
            if self._ahead is not None:
                after = order[stop : stop + self.window] if stop < len(order) else self.shards(epoch + 1)[: self.window]
                self._ahead([*order[first:stop].tolist(), *after.tolist()])
        return self._shuffled[epoch, number]


def fetch_ahead(rows: ShardRows) -> Callable[[list[int]], None]:
    """Fetches shards, numbered within the split, in the background."""
    readahead = rows.store.readahead()
    assert isinstance(readahead, Readahead)
    shards = rows.shards
    return lambda numbers: readahead.want([shards[number] for number in numbers])


def order_for(
    source: FileSource, usable: Usable, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> Order:
    """How a loader goes through the ``usable`` samples of a source: a full permutation wherever all of it is at hand.

    The order counts places in ``usable``.
    """
    rows = source.index
    window = rows.window() if isinstance(rows, ShardRows) else None
    if window is None or not isinstance(rows, ShardRows) or rows.split is None:
        return Order(len(usable), batch_size, seed, rank, world_size)
    split = rows.index.facts.splits[rows.split]
    stored = rows.index.column("stored")[slice(*split.stored)]
    starts = np.array(split.starts, np.int64)
    if len(stored) != len(usable):  # the loader leaves more out than the index does
        numbers = Usable(len(source), rows.failures())[stored.astype(np.int64)]
        kept = ~np.isin(numbers, usable.failed)
        starts = np.concatenate(([0], np.cumsum(kept)))[starts]
        stored = usable.places(numbers[kept])
    return WindowOrder(stored, starts, window, batch_size, seed, rank, world_size, fetch_ahead(rows), rows.layout)


def order_in_words(order: object) -> str:
    """For the start of a run, and for its resumption, which must find the same; "" for a full permutation."""
    window = getattr(order, "window", None)
    if window is None:
        return ""
    layout = getattr(order, "layout", "")
    return (
        f"shuffled {window} shards at a time, since all of them do not fit the cache ({VARIABLE} sets its size; "
        f"layout {layout})"
    )
