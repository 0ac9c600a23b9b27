"""Masks of sequences made of spans, for audio frames and text.

Everything is done in *slots*, the ranks of a sample's valid tokens, so padding and special tokens neither take part nor
count; a sample's slots form a ring, on which a span that leaves at the end comes in at the beginning. So every position
has the same chance to be hidden, the first and the last included.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking.choice import check_valid, counts, grid_shape, slots
from mmssl.masking.noise import NoiseKey
from mmssl.masking.theory import check_span, check_start_probability, starts_for_coverage

STREAM_SPANS = 0x6D61736B20
STREAM_STARTS = 0x6D61736B21
STREAM_ROUNDING = 0x6D61736B22


def span_mask(
    key: NoiseKey,
    grid: int | tuple[int],
    mask_fraction: float | None = None,
    *,
    valid: Bool[Tensor, "batch token"] | None = None,
    span: int = 10,
    start_probability: float | None = None,
    exact: bool = True,
    inside: bool = False,
) -> Bool[Tensor, "batch token"]:
    """Hide spans of ``span`` tokens, overlaps allowed, by one of two laws.

    *Exact* (``mask_fraction``): spans fall one by one, anywhere, until the count of the sample is reached; the last
    one is shortened to hit it: exactly ``hidden_count(valid length, mask_fraction)`` tokens. A sample shorter than a
    span hides one shorter span.

    *Starts* (``start_probability``, or ``mask_fraction`` with ``exact=False``): p * length starts without replacement,
    rounded up or down at random so that the mean is kept, as in wav2vec 2.0 (Baevski et al. 2020, appendix A). The
    number of hidden tokens varies. A fraction is converted to the number of starts whose expected coverage it is at
    the sample's own length (:func:`mmssl.masking.theory.starts_for_coverage`). A sample no longer than a span hides
    nothing.

    Args:
        inside: for the law of starts only: all spans wholly inside the sequence, the form published with wav2vec 2.0,
            in which the first and last tokens are rarely hidden.

    Raises:
        UserError: unless exactly one of mask_fraction and start_probability is given; for values out of range, a span
            longer than the sequence, or a ``valid`` that does not fit.
    """
    (tokens,) = grid_shape(grid, (1,), "span_mask")
    check_valid(key, tokens, valid)
    check_span(tokens, span)
    if (mask_fraction is None) == (start_probability is None):
        raise UserError("span_mask needs either mask_fraction or start_probability, and not both")
    lengths = torch.full_like(key.id, tokens) if valid is None else valid.sum(1)
    if mask_fraction is not None and exact:
        if inside:
            raise UserError("inside=True belongs to the law of starts: add exact=False, or leave it out")
        hidden = _exact_spans(key, tokens, counts(tokens, mask_fraction, valid), lengths, span, mask_fraction)
    else:
        starts, most = _mean_starts(lengths, tokens, mask_fraction, start_probability, span, inside, valid is not None)
        begins = _drawn_starts(key, tokens, starts, math.floor(most) + 1, lengths, span, inside, valid is not None)
        hidden = _over_window(_unrolled(begins, lengths.clamp_min(1).unsqueeze(1), span), span, torch.logical_or)
    return hidden if valid is None else hidden.gather(1, slots(valid).clamp_min(0).to(torch.int64)) & valid


def _exact_spans(
    key: NoiseKey,
    tokens: int,
    count: int | Int[Tensor, "batch"],
    lengths: Int[Tensor, "batch"],
    span: int,
    mask_fraction: float,
) -> Bool[Tensor, "batch slot"]:
    ring = lengths.clamp_min(1).unsqueeze(1)
    # Mean number of spans that cover the fraction (a repeated one adds nothing) and a good quarter more. A sweep around
    # the ring follows, so that in the rare sample that needs still more everything is covered nevertheless.
    draws = math.ceil(-1.25 * tokens / span * math.log1p(-mask_fraction)) + 20
    start = _scale(key.bits(draws, STREAM_SPANS), ring)
    sweep = torch.arange(0, tokens, span, device=key.device)
    start = torch.cat([start, (start[:, :1] + sweep) % ring], 1)
    draws = start.shape[1]
    # of the spans that cover a slot, the first to have fallen
    arrival = _over_window(_unrolled(_first_draws(start, tokens), ring, span), span, torch.minimum)
    if not isinstance(count, int):
        beyond = torch.arange(tokens, dtype=torch.int32, device=key.device) >= ring.to(torch.int32)
        arrival = arrival.masked_fill_(beyond, draws)

    wanted = count if isinstance(count, int) else count.unsqueeze(1)
    gained = torch.zeros(len(key), draws + 1, dtype=torch.int32, device=key.device)
    gained.scatter_add_(
        1, arrival.to(torch.int64), torch.ones((), dtype=torch.int32, device=key.device).expand_as(arrival)
    )
    covered = gained.cumsum(1)
    last = (covered < wanted).sum(1, keepdim=True)
    missing = wanted - (covered - gained).gather(1, last)
    # What the last span adds is one piece, since no other of its length fits into its middle: keep the head of it.
    reach = (start.gather(1, last) + torch.arange(span, device=key.device)) % ring
    added = arrival.gather(1, reach) == last
    added &= added.cumsum(1) <= missing
    # the rest of its slots go to one more column, which is cut off again
    hidden = torch.nn.functional.pad(arrival < last.to(torch.int32), (0, 1))
    return hidden.scatter_(1, torch.where(added, reach, tokens), True)[:, :tokens]


def _mean_starts(
    lengths: Int[Tensor, "batch"],
    tokens: int,
    mask_fraction: float | None,
    start_probability: float | None,
    span: int,
    inside: bool,
    padded: bool,
) -> tuple[Float[Tensor, "batch"], float]:
    """Mean number of starts of each sample, and the largest there can be."""
    if span == tokens:
        raise UserError(f"one span of {span} hides the whole sequence of {tokens} tokens: choose a shorter span")
    if start_probability is not None:
        check_start_probability(start_probability)
        return lengths.to(torch.float32) * start_probability, tokens * start_probability
    if mask_fraction is None:
        raise UserError("span_mask needs mask_fraction or start_probability")
    most = starts_for_coverage(tokens, span, mask_fraction, inside)
    if not padded:
        return torch.full_like(lengths, most, dtype=torch.float32), most
    return _starts_table(tokens, mask_fraction, span, inside, lengths.device)[lengths], most


def _drawn_starts(
    key: NoiseKey,
    tokens: int,
    starts: Float[Tensor, "batch"],
    most: int,
    lengths: Int[Tensor, "batch"],
    span: int,
    inside: bool,
    padded: bool,
) -> Bool[Tensor, "batch slot"]:
    """Where spans begin: ``starts`` places (rounded at random) without replacement in each sample; ``most`` at most.

    The first k different ones of a row of independent uniform draws are a uniformly random subset of k. For more than
    half of the places those left out are drawn instead, so that few draws are repetitions.
    """
    domain = (lengths - (span - 1) if inside else lengths) * (lengths > span)
    count = torch.minimum((starts + key.uniform(1, STREAM_ROUNDING).squeeze(1)).floor().to(torch.int64), domain)
    places = tokens - span + 1 if inside else tokens
    dense = padded or 2 * most > places
    inverted = 2 * count > domain
    wanted = torch.where(inverted, domain - count, count) if dense else count

    drawn = _draws_needed(min(most, (places + 1) // 2), 0.5 if dense else most / places)
    start = _scale(key.bits(drawn, STREAM_STARTS), domain.unsqueeze(1))
    new = _first_draws(start, tokens).gather(1, start) == torch.arange(drawn, device=key.device)
    taken = new & (new.cumsum(1) <= wanted.unsqueeze(1))
    # the draws not taken go to one more column, which is cut off again
    begins = torch.zeros(len(key), tokens + 1, dtype=torch.bool, device=key.device)
    begins = begins.scatter_(1, torch.where(taken, start, tokens), True)[:, :tokens]
    if not dense:
        return begins
    return (begins ^ inverted.unsqueeze(1)) & (torch.arange(tokens, device=key.device) < domain.unsqueeze(1))


def _draws_needed(distinct: int, share: float) -> int:
    """How many uniform draws give ``distinct`` different values of ``distinct / share`` but for one row in 10^9.

    The number needed is a sum of geometric variables with success rates 1 - j / n for j = 0 ... distinct - 1; its mean
    is n * -log(1 - share) and its variance n * (share / (1 - share) + log(1 - share)), as integrals.
    """
    values = distinct / share
    mean = -values * math.log1p(-share)
    variance = values * (share / (1 - share) + math.log1p(-share))
    return math.ceil(mean + 7 * math.sqrt(variance) + 10)


@lru_cache(maxsize=32)
def _starts_table(longest: int, mask_fraction: float, span: int, inside: bool, device: torch.device) -> Tensor:
    # up to the next power of two: batches are padded to ever different lengths, and each new one would cost a table
    lengths = range(1 << longest.bit_length())
    table = [starts_for_coverage(n, span, mask_fraction, inside) if n > span else 0.0 for n in lengths]
    return torch.tensor(table, dtype=torch.float32, device=device)


def _scale(bits: Int[Tensor, "batch draw"], places: Int[Tensor, "batch 1"]) -> Int[Tensor, "batch draw"]:
    """Uniform whole numbers 0 ... places - 1 from 32 random bits (Lemire 2019, multiply and shift)."""
    return ((bits.to(torch.int64) & 0xFFFFFFFF) * places) >> 32


def _first_draws(start: Int[Tensor, "batch draw"], tokens: int) -> Int[Tensor, "batch slot"]:
    """For each slot the number of the first draw that hit it, or the number of draws when none did."""
    batch, draws = start.shape
    first = torch.full((batch, tokens), draws, dtype=torch.int32, device=start.device)
    number = torch.arange(draws, dtype=torch.int32, device=start.device).expand(batch, draws)
    return first.scatter_reduce_(1, start, number, "amin")


def _unrolled(
    ring_values: Shaped[Tensor, "batch slot"], ring: Int[Tensor, "batch 1"], span: int
) -> Shaped[Tensor, "batch wide"]:
    """The ``span - 1`` values before slot 0, which on a ring of ``ring`` slots are its last ones, then all values."""
    before = torch.arange(1 - span, 0, device=ring.device) % ring
    return torch.cat([ring_values.gather(1, before), ring_values], 1)


def _over_window(
    values: Shaped[Tensor, "batch wide"], span: int, combine: Callable[[Tensor, Tensor], Tensor]
) -> Shaped[Tensor, "batch slot"]:
    """``combine`` over each window of ``span`` neighbours, in log2(span) steps of doubling width."""
    width = 1
    while width < span:
        step = min(width, span - width)
        values = combine(values[:, step:], values[:, :-step])
        width += step
    return values
