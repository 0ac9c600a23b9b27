"""Which pieces each step reads: batches of similar lengths, bounded in seconds, in an order that is arithmetic.

Pieces are sorted into buckets by length, longest first; within a bucket lengths differ by a fifth at most. Each epoch
shuffles every bucket by (seed, epoch), lays the buckets end to end, and cuts the row at places that are the same every
epoch, since each bucket counts as if all of it were as long as its longest piece. The batches of an epoch then come in
an order of their own, again by (seed, epoch). So the number of batches of an epoch is constant, step s is batch s mod n
of epoch s // n, every piece comes once an epoch, and resuming needs nothing but the step.

A batch is what one optimizer step hears, however many ranks and micro-batches share it: they take its pieces in turn,
longest first, so that their shares are alike and the step is the same for any number of them.
"""

import numpy as np
from jaxtyping import Int64

from mmssl.data.order import Order
from mmssl.errors import UserError

_BATCH_ORDER = 0x3C6EF372FE94F82B
"""Makes the seed of the order of batches another one than that of pieces."""


class LengthBatches:
    """Batches of at most ``budget`` samples, padding included.

    Args:
        lengths: samples of every piece, none more than ``budget``.
        budget: number of pieces times the longest of them, for any batch.
        seed: of the order.
        rank, world_size: each rank takes its share of every batch.
        accumulation: micro-batches that each batch is cut into.

    Raises:
        UserError: where a batch has fewer pieces than there are shares.
    """

    def __init__(
        self,
        lengths: Int64[np.ndarray, " piece"],
        budget: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.lengths, self.rank, self.world_size, self.accumulation = lengths, rank, world_size, accumulation
        self._pieces = Order(len(lengths), 1, seed, rank, world_size)
        self._bucket = buckets(lengths)
        ordered = np.argsort(self._bucket, kind="stable")
        self._edges = even_edges(_nominal(lengths[ordered], self._bucket[ordered]), budget)
        self._batches = Order(len(self._edges) - 1, 1, seed ^ _BATCH_ORDER)
        self._rows: dict[int, Int64[np.ndarray, " piece"]] = {}
        self.fewest = int(np.diff(self._edges).min())
        """Pieces that every batch has."""
        check_shares(self.fewest, world_size, accumulation)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._edges) - 1

    def batch(self, step: int) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Numbers of this rank's pieces in a micro-batch (0, 1, 2 ...), longest first, and the epoch of each."""
        step, micro = divmod(step, self.accumulation)
        epoch, place = divmod(step, len(self))
        number = int(self._batches.at(epoch, np.array([place]))[0])
        pieces = self._row(epoch)[self._edges[number] : self._edges[number + 1]]
        pieces = pieces[np.argsort(-self.lengths[pieces], kind="stable")]
        # a micro-batch of all ranks together is the same for any number of them
        pieces = pieces[micro + self.accumulation * self.rank :: self.accumulation * self.world_size]
        return pieces, np.full(len(pieces), epoch, np.int64)

    def _row(self, epoch: int) -> Int64[np.ndarray, " piece"]:
        """All pieces of an epoch, bucket by bucket."""
        if epoch not in self._rows:
            if len(self._rows) >= 2:
                del self._rows[min(self._rows)]
            shuffled = self._pieces.permutation(epoch)
            self._rows[epoch] = shuffled[np.argsort(self._bucket[shuffled], kind="stable")]
        return self._rows[epoch]


def check_shares(fewest: int, ranks: int, accumulation: int) -> None:
    """Raises UserError where a batch of the ``fewest`` pieces is not enough for all ranks and micro-batches."""
    if fewest < ranks * accumulation:
        raise UserError(
            f"a step may have as few as {fewest} recordings, which cannot be shared among {ranks} processes x "
            f"{accumulation} micro-batches: raise --batch-size, lower --max-seconds, or use fewer"
        )


def buckets(lengths: Int64[np.ndarray, " piece"]) -> Int64[np.ndarray, " piece"]:
    """Bucket of each piece, 0 for the longest. Each bucket reaches down to five sixths of its upper bound."""
    bounds = [int(lengths.max())]
    while bounds[-1] > int(lengths.min()):
        bounds.append(min(bounds[-1] * 5 // 6, bounds[-1] - 1))
    # a piece is in the last bucket whose bound it does not exceed
    ascending = np.array(bounds[::-1], np.int64)
    return len(bounds) - 1 - np.searchsorted(ascending, lengths, side="left").astype(np.int64)


def _nominal(lengths: Int64[np.ndarray, " piece"], bucket: Int64[np.ndarray, " piece"]) -> Int64[np.ndarray, " piece"]:
    """The longest length of each piece's bucket."""
    longest = np.zeros(int(bucket.max()) + 1, np.int64)
    np.maximum.at(longest, bucket, lengths)
    return longest[bucket]


def even_edges(lengths: Int64[np.ndarray, " piece"], budget: int) -> Int64[np.ndarray, " edge"]:
    """Cut a row of descending lengths into as few batches as ``budget`` allows, as equal as possible.

    The smallest budget that needs no more batches, and then each gives the next what that has room for: else the last
    one would be whatever is left, perhaps a single piece.
    """
    edges = _edges(lengths, budget)
    low, high = int(lengths[0]), budget
    while low < high:
        middle = (low + high) // 2
        if len(_edges(lengths, middle)) <= len(edges):
            high = middle
        else:
            low = middle + 1
    return _levelled(_edges(lengths, low), lengths, low)


def _levelled(
    edges: Int64[np.ndarray, " edge"], lengths: Int64[np.ndarray, " piece"], budget: int
) -> Int64[np.ndarray, " edge"]:
    """The same cuts, moved forward from the end as long as a batch has two pieces more than the next, within budget."""
    edges, moved = edges.copy(), True
    while moved:
        moved = False
        for cut in range(len(edges) - 2, 0, -1):
            before, behind = edges[cut] - edges[cut - 1], edges[cut + 1] - edges[cut]
            # as many of the pieces in front as fit, each counting as the longest of them
            room = budget // int(lengths[edges[cut] - 1]) - behind
            more = min((before - behind) // 2, room)
            while more > 0 and (behind + more) * int(lengths[edges[cut] - more]) > budget:
                more -= 1
            if more > 0:
                edges[cut] -= more
                moved = True
    return edges


def _edges(lengths: Int64[np.ndarray, " piece"], budget: int) -> Int64[np.ndarray, " edge"]:
    """Batch after batch as many as fit; the first of each is its longest."""
    edges = [0]
    while edges[-1] < len(lengths):
        edges.append(min(len(lengths), edges[-1] + budget // int(lengths[edges[-1]])))
    return np.array(edges, np.int64)
