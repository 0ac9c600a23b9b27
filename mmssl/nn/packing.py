"""Sequences of different lengths laid end to end, ``[1, total, dim]``: no layer works on padding.

Only attention needs to know where a sequence begins and ends. How it is computed, exactly and fast, is the device's:

    CPU, or fp32 on CUDA    runs of sequences of similar length are padded for attention alone, and packed again
    bf16, fp16 on CUDA      torch's variable-length attention, which takes the packed form as it is
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SIMILAR = 0.75
"""Sequences down to this share of the longest one of a run are padded together: measured, flat between 0.6 and 0.9."""


@dataclass(frozen=True)
class _Rows:
    """Where the tokens of a run of sequences are in the packed tensor, and where they go in a padded one."""

    start: int
    stop: int
    count: int
    longest: int
    padded: Int[Tensor, " slot"] | None
    """For each slot of [sequence, longest] the token of the run it holds; None where nothing is padded."""
    packed: Int[Tensor, " token"] | None
    """For each token of the run its slot."""
    valid: Bool[Tensor, "sequence 1 1 longest"] | None
    """Slots that may be looked at: those that hold a token, and the first of a sequence that has none, since softmax
    over nothing is not a number."""

    def pad(self, x: Float[Tensor, "1 total dim"], heads: int) -> Float[Tensor, "sequence head longest head_dim"]:
        """The tokens of these sequences, a row each, cut into heads; what fills a row up is any token."""
        tokens = x[0, self.start : self.stop]
        if self.padded is not None:
            tokens = tokens.index_select(0, self.padded)
        return tokens.view(self.count, self.longest, heads, -1).transpose(1, 2)

    def pack(self, x: Float[Tensor, "sequence head longest head_dim"]) -> Float[Tensor, "token dim"]:
        """Inverse of :meth:`pad`."""
        tokens = x.transpose(1, 2).reshape(self.count * self.longest, -1)
        return tokens if self.packed is None else tokens.index_select(0, self.packed)


@dataclass(frozen=True)
class Packing:
    """Lengths of sequences that lie end to end; sorted by length they cost least.

    ``lengths`` is on the device of the tokens, ``total`` their sum and ``longest`` a bound of each, both known to the
    host, so that nothing waits for a GPU.
    """

    lengths: Int[Tensor, " sequence"]
    total: int
    longest: int
    _layouts: dict[tuple[int, int], _Rows] = field(default_factory=dict, repr=False)

    @cached_property
    def offsets(self) -> Int[Tensor, " boundary"]:
        """Where each sequence begins, and where the last one ends."""
        return F.pad(self.lengths.cumsum(0), (1, 0))

    @cached_property
    def sequence(self) -> Int[Tensor, " total"]:
        """Number of the sequence that each token belongs to."""
        numbers = torch.arange(len(self.lengths), device=self.lengths.device)
        return numbers.repeat_interleave(self.lengths, output_size=self.total)

    @cached_property
    def position(self) -> Int[Tensor, " total"]:
        """Position of each token within its sequence."""
        return torch.arange(self.total, device=self.lengths.device) - self.offsets[self.sequence]

    def pick(self, ids: Int[Tensor, "1 query"]) -> "Packing":
        """The packing of the tokens ``ids``, ascending, of these sequences; some may be left with none."""
        counts = torch.zeros_like(self.lengths).index_add_(
            0, self.sequence[ids[0]], torch.ones_like(ids[0], dtype=self.lengths.dtype)
        )
        return Packing(counts, ids.shape[1], self.longest)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """First and last + 1 of neighbouring sequences that are padded together."""
        if self.lengths.device.type != "cpu":
            return [(0, len(self.lengths))]
        lengths = self.lengths.tolist()
        starts, longest = [0], lengths[0]
        for index, length in enumerate(lengths):
            if not SIMILAR * longest <= length <= longest:
                starts.append(index)
                longest = length
        return list(pairwise([*starts, len(lengths)]))

    def rows(self, first: int, last: int) -> _Rows:
        """How sequences ``first`` to ``last`` - 1 are padded; worked out once for all layers."""
        if (first, last) not in self._layouts:
            self._layouts[first, last] = self._layout(first, last)
        return self._layouts[first, last]

    def _layout(self, first: int, last: int) -> _Rows:
        lengths = self.lengths[first:last]
        if self.lengths.device.type != "cpu":
            start, stop, longest = 0, self.total, self.longest
        else:
            start, stop = int(self.offsets[first]), int(self.offsets[last])
            longest = int(lengths.max())
            if stop - start == longest * (last - first):
                return _Rows(start, stop, last - first, longest, None, None, None)
        column = torch.arange(longest, device=lengths.device)
        valid = column < lengths[:, None]
        within = self.offsets[first:last, None] - start + column
        packed = (self.sequence[start:stop] - first) * longest + self.position[start:stop]
        # slots beyond a sequence repeat some token: as keys they are masked, as queries they are not read
        padded = torch.where(valid, within, 0).flatten()
        keys = column < lengths[:, None].clamp_min(1)
        return _Rows(start, stop, last - first, longest, padded, packed, keys[:, None, None])


def packed_attention(
    q: Float[Tensor, "1 query dim"],
    k: Float[Tensor, "1 token dim"],
    v: Float[Tensor, "1 token dim"],
    heads: int,
    keys: Packing,
    queries: Packing,
    dropout: float = 0.0,
) -> Float[Tensor, "1 query dim"]:
    """Scaled dot-product attention within each sequence. ``queries`` packs the same sequences, perhaps fewer tokens."""
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].unflatten(-1, (heads, -1)) for x in (q, k, v))
        starts, seen = queries.offsets.to(torch.int32), keys.offsets.to(torch.int32)
        mixed = varlen_attn(q, k, v, starts, seen, queries.longest, keys.longest)
        assert isinstance(mixed, Tensor)
        return mixed.flatten(1)[None]
    parts = []
    for run in keys.runs:
        seen, asking = keys.rows(*run), queries.rows(*run)
        if asking.stop > asking.start:
            mixed = F.scaled_dot_product_attention(
                asking.pad(q, heads), seen.pad(k, heads), seen.pad(v, heads), attn_mask=seen.valid, dropout_p=dropout
            )
            parts.append(asking.pack(mixed))
    # where nobody asks, as in a batch with nothing hidden, the questions are already an empty answer
    return torch.cat(parts)[None] if parts else q
