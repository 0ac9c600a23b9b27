"""A guess of a hidden token from its two neighbours: what counting pairs knows, and no network is needed for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class NeighbourGuess(nn.Module):
    """Log probability of tokens given the visible ones beside them, from counts of pairs in the training data.

    p(t | left) = (c(left, t) + d(left) p(t)) / (c(left) + d(left)), with c the counts, d(left) the number of different
    tokens seen behind ``left``, and p(t) the token's frequency: Witten and Bell's smoothing (Bell, Cleary and Witten
    1990, method C). p(t | right) likewise, and the mean of both where both are visible.
    """

    pair: Tensor
    pair_count: Tensor

    def __init__(self, vocabulary_size: int, pairs: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        # two tables in one, by (left, right) and by (right, left), each sorted
        self.register_buffer("pair", torch.zeros(2, pairs, dtype=torch.int64))
        self.register_buffer("pair_count", torch.zeros(2, pairs))

    def observe(self, left: Int[Tensor, " pair"], right: Int[Tensor, " pair"], count: Int[Tensor, " pair"]) -> None:
        """Take the counts of different pairs; as many as were announced."""
        for table, (given, asked) in enumerate(((left, right), (right, left))):
            key, order = (given * self.vocabulary_size + asked).sort()
            self.pair[table].copy_(key)
            self.pair_count[table].copy_(count[order])

    def forward(
        self,
        unigram: Float[Tensor, " vocabulary"],
        shown: Int[Tensor, " total"],
        target: Int[Tensor, " hidden"],
        where: Int[Tensor, " hidden"],
        mask_id: int,
    ) -> Float[Tensor, " hidden"]:
        """Log probability of each ``target``, which stands at ``where`` among the packed tokens that are ``shown``.

        A hidden token is never first or last of its sequence where special tokens stand there; where none do, the
        neighbour beyond the end is that of another sequence, and tells little.
        """
        frequency = unigram[target].exp()
        total, seen = torch.zeros_like(frequency), torch.zeros_like(frequency)
        for table, step in ((0, -1), (1, 1)):
            neighbour = shown[(where + step) % len(shown)]
            visible = neighbour != mask_id
            total += torch.where(visible, self._given(table, neighbour, target, frequency), 0)
            seen += visible
        return torch.where(seen > 0, total / seen.clamp_min(1), frequency).log()

    def _given(
        self,
        table: int,
        given: Int[Tensor, " hidden"],
        asked: Int[Tensor, " hidden"],
        frequency: Float[Tensor, " hidden"],
    ) -> Float[Tensor, " hidden"]:
        keys, counts = self.pair[table], self.pair_count[table]
        rows = keys // self.vocabulary_size
        together = counts.new_zeros(self.vocabulary_size).index_add_(0, rows, counts)[given]
        different = counts.new_zeros(self.vocabulary_size).index_add_(0, rows, torch.ones_like(counts))[given]
        wanted = given * self.vocabulary_size + asked
        place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        both = torch.where(keys[place] == wanted, counts[place], 0)
        return torch.where(
            together > 0, (both + different * frequency) / (together + different).clamp_min(1), frequency
        )
