"""Batches of pieces of text with a fixed number of real tokens, in an order that is arithmetic.

    loader = TextLoader(open_cache(source, tokenizer), max_length=128, batch_tokens=8192, seed=0, device="cuda")
    for batch in loader.batches(start_step): ...      # without end

**Packing order.** Every epoch puts the pieces in the order of :class:`~mmssl.data.order.Order`; epoch follows epoch in
one endless stream of tokens. The stream is cut into runs of ``batch_tokens``, and a piece belongs to the run in which
its first token falls. So a batch holds ``batch_tokens`` tokens, give or take a piece, whatever the lengths; nothing is
lost, repeated or filled up; and which pieces a step reads follows from cumulative sums of one epoch, so that resuming
needs nothing but the step. At each step rank r takes the r-th of ``world_size`` runs.

A batch is a dict: ``id``, ``epoch``, ``length`` int64 [piece]; ``token``, ``word`` int64 [piece, longest], padded with
the pad token and -1 (-1 for special tokens too); pieces sorted by length, longest first. For CUDA also ``flat`` int64
[total]: the places of real tokens in ``token.flatten()``, found on the host, so that a step needs no synchronization.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mmssl.data.order import EVERYTHING, Order
from mmssl.data.text.cache import TokenCache
from mmssl.data.text.counts import count_pairs, count_tokens
from mmssl.data.text.pieces import cut_pieces
from mmssl.data.text.words import INSIDE
from mmssl.errors import UserError

Batch = dict[str, Tensor]


class TextLoader:
    """Pieces of at most ``max_length`` tokens, special tokens included.

    Args:
        cache: the tokens.
        max_length: of a piece; :mod:`mmssl.data.text.pieces` says where long documents are cut.
        batch_tokens: real tokens a step on each rank; at least ``max_length``, so that no batch is empty.
        seed: of the order.
        device: where batches are wanted.
        rank, world_size: see above.

    Raises:
        UserError: for impossible settings, or when there is no token.
    """

    def __init__(
        self,
        cache: TokenCache,
        *,
        max_length: int,
        batch_tokens: int,
        seed: int,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        tokenizer = cache.tokenizer
        room = max_length - tokenizer.brackets
        if room < 1:
            raise UserError(
                f"max length {max_length} leaves no room beside {tokenizer.brackets} special tokens: "
                f"choose {tokenizer.brackets + 1} or more"
            )
        _check_budget(batch_tokens, max_length)
        self.cache, self.max_length, self.batch_tokens = cache, max_length, batch_tokens
        self.device = torch.device(device)
        self.starts, inner = cut_pieces(cache.marks, cache.documents, room)
        if not len(self.starts):
            raise UserError(f"{cache.name} holds no token: give files with text")
        self.lengths = inner + tokenizer.brackets
        """Tokens of every piece, special tokens included."""
        self.tokens = int(self.lengths.sum())
        """Tokens of an epoch, special tokens included."""
        self.order = Order(len(self.starts), 1, seed, rank, world_size)
        self._ends: dict[int, Int64[np.ndarray, " piece"]] = {}

    def __len__(self) -> int:
        """Number of pieces: one epoch."""
        return len(self.starts)

    def pieces(self, step: int) -> tuple[Int64[np.ndarray, " piece"], Int64[np.ndarray, " piece"]]:
        """Ids and epochs of the pieces at a step, longest first."""
        run = step * self.order.world_size + self.order.rank
        first, stop = run * self.batch_tokens, (run + 1) * self.batch_tokens
        ids, epochs = [], []
        for epoch in range(first // self.tokens, (stop - 1) // self.tokens + 1):
            begins = self._begins(epoch)
            low, high = np.searchsorted(begins, (first - epoch * self.tokens, stop - epoch * self.tokens))
            ids.append(self.order.at(epoch, np.arange(low, high)))
            epochs.append(np.full(high - low, epoch, np.int64))
        return self._longest_first(np.concatenate(ids), np.concatenate(epochs))

    def _begins(self, epoch: int) -> Int64[np.ndarray, " piece"]:
        """Where each piece of an epoch begins in its stream of tokens."""
        if epoch not in self._ends:
            if len(self._ends) >= 4:
                del self._ends[min(self._ends)]
            lengths = self.lengths[self.order.permutation(epoch)]
            self._ends[epoch] = np.cumsum(lengths) - lengths
        return self._ends[epoch]

    def _longest_first(
        self, ids: Int64[np.ndarray, " piece"], epochs: Int64[np.ndarray, " piece"]
    ) -> tuple[Int64[np.ndarray, " piece"], Int64[np.ndarray, " piece"]]:
        order = np.argsort(-self.lengths[ids], kind="stable")
        return ids[order], epochs[order]

    def names(self, step: int) -> list[str]:
        """The documents the pieces of a step are from, in their order."""
        documents = np.searchsorted(self.cache.documents, self.starts[self.pieces(step)[0]], side="right") - 1
        return [self.cache.name_of(document) for document in documents.tolist()]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Training batches from a step on, without end."""
        step = start_step
        while True:
            yield self._batch(*self.pieces(step))
            step += 1

    def frozen(
        self,
        batch_tokens: int | None = None,
        most_tokens: int | None = None,
        share: tuple[int, int] = EVERYTHING,
    ) -> Iterator[Batch]:
        """Every piece once, epoch 0, longest first, so that little is padded; always in the same batches.

        Where there are more than ``most_tokens``, every second piece, every third, and so on, in the order of ids.
        ``share``: (rank, ranks), of which all batches are read once between them.

        Raises:
            UserError: when ``batch_tokens`` (by default that of training) is less than ``max_length``.
        """
        budget = batch_tokens or self.batch_tokens
        _check_budget(budget, self.max_length)
        every = 1 if most_tokens is None else -(-self.tokens // most_tokens)
        chosen = np.arange(0, len(self), every)
        ids = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        lengths = self.lengths[ids]
        run = (np.cumsum(lengths) - lengths) // budget
        for group in np.split(ids, np.flatnonzero(np.diff(run)) + 1)[share[0] :: share[1]]:
            yield self._batch(group, np.zeros(len(group), np.int64))

    def _batch(self, ids: Int64[np.ndarray, " piece"], epochs: Int64[np.ndarray, " piece"]) -> Batch:
        tokenizer, lengths = self.cache.tokenizer, self.lengths[ids]
        column = np.arange(int(lengths[0]))
        cls_id, sep_id = tokenizer.cls_id, tokenizer.sep_id
        before, after = cls_id is not None, sep_id is not None
        real = column < lengths[:, None]
        inner = (column >= int(before)) & (column < lengths[:, None] - int(after))
        place = (self.starts[ids, None] - int(before) + column)[inner]
        token = np.full(real.shape, tokenizer.pad_id or 0, np.int64)
        token[inner] = self.cache.tokens[place]
        if cls_id is not None:
            token[:, 0] = cls_id
        if sep_id is not None:
            token[np.arange(len(ids)), lengths - 1] = sep_id
        begins = np.zeros(real.shape, np.int64)
        begins[inner] = self.cache.marks[place] > INSIDE
        # the second half of a word too long for a piece is a word of its own
        begins[:, int(before)] = 1
        word = np.where(inner, np.cumsum(begins, 1) - 1, -1)
        arrays = {"id": ids, "epoch": epochs, "token": token, "word": word, "length": lengths}
        if self.device.type == "cuda":
            arrays["flat"] = np.flatnonzero(real)
        return {key: self._send(torch.from_numpy(value)) for key, value in arrays.items()}

    def _send(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def unigram(self) -> Float64[np.ndarray, " vocabulary"]:
        """How often each token occurs in an epoch; 0 for special tokens."""
        return count_tokens(self.cache)

    def bigrams(
        self, most: int
    ) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        """The most frequent pairs of neighbors within pieces: (left, right, count), ties by left and right id.

        Pairs with a special token are not counted. At most ``most`` pairs.
        """
        return count_pairs(self.cache, self.starts, most)

    def fingerprint(self) -> str:
        """Hash of data, tokenizer and cutting: equal as long as an id stands for the same piece."""
        return hashlib.blake2b(f"{self.cache.key} {self.max_length}".encode(), digest_size=16).hexdigest()


def _check_budget(batch_tokens: int, max_length: int) -> None:
    if batch_tokens < max_length:
        raise UserError(
            f"batch tokens {batch_tokens} are fewer than the max length {max_length}, so that a batch could be empty: "
            f"choose {max_length} or more"
        )
