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
STREAM_LENGTHS = 0x6D61736B22


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
    lengths = tokens if valid is None else valid.sum(1, keepdim=True)
    if mask_fraction is not None and start_probability is None and exact:
        if inside:
            raise UserError("inside=True belongs to the law of starts: add exact=False, or leave it out")
        hidden = _exact_spans(key, tokens, counts(tokens, mask_fraction, valid), lengths, span, mask_fraction)
    else:
        mean, most = _mean_starts(key, tokens, lengths, mask_fraction, start_probability, span, inside)
        begins = _drawn_starts(key, tokens, lengths, mean, math.floor(most) + 1, span, inside)
        hidden = _over_window(_unrolled(begins, lengths, span), span, torch.logical_or)
    return hidden if valid is None else hidden.gather(1, slots(valid).clamp_min(0).to(torch.int64)) & valid


def span_units(
    key: NoiseKey, words: Int[Tensor, "batch token"], *, stop: float = 0.2, longest: int = 10
) -> Int[Tensor, "batch token"]:
    """Cut each sample into spans of whole words, of geometric length, for :func:`mmssl.masking.unit_mask` to hide.

    Lengths l = 1 ... ``longest`` have probability stop (1 - stop)^(l - 1), renormalised: 3.80 words on average with the
    defaults (Joshi et al. 2020, "SpanBERT", section 3.1). There spans are dropped on the text one by one; here the text
    is cut into spans, of which some are hidden, so that none overlap and fractions are hit.

    ``words`` numbers the words of a sample from 0 on; what is negative belongs to no word and stays as it is. Returns
    the number of each token's span. Raises UserError for a probability or length out of range.
    """
    if not 0 < stop < 1 or longest < 1:
        raise UserError(f"span lengths need 0 < stop < 1 and longest >= 1, got {stop} and {longest}")
    shares = torch.tensor([stop * (1 - stop) ** length for length in range(longest)], dtype=torch.float64)
    table = (shares.cumsum(0) / shares.sum())[:-1].to(torch.float32).to(key.device)
    lengths = 1 + torch.bucketize(key.uniform(words.shape[1], STREAM_LENGTHS), table, right=True)
    span = torch.searchsorted(lengths.cumsum(1), words.clamp_min(0).contiguous(), right=True)
    return torch.where(words < 0, words, span.to(words.dtype))


def _exact_spans(
    key: NoiseKey,
    tokens: int,
    count: int | Int[Tensor, "batch"],
    lengths: int | Int[Tensor, "batch 1"],
    span: int,
    mask_fraction: float,
) -> Bool[Tensor, "batch slot"]:
    ring = lengths if isinstance(lengths, int) else lengths.clamp_min(1)
    wanted = count if isinstance(count, int) else count.unsqueeze(1)
    start = _falling_spans(key, tokens, ring, span, mask_fraction)
    draws = start.shape[1]
    # of the spans that cover a slot, the first to have fallen
    arrival = _over_window(_unrolled(_first_draws(start, tokens), ring, span), span, torch.minimum)
    if not isinstance(ring, int):
        slot = torch.arange(tokens, dtype=torch.int32, device=key.device)
        arrival = arrival.masked_fill_(slot >= ring.to(torch.int32), draws)

    one = torch.ones((), dtype=torch.int32, device=key.device)
    gained = torch.zeros(len(key), draws + 1, dtype=torch.int32, device=key.device)
    gained.scatter_add_(1, arrival.to(torch.int64), one.expand_as(arrival))
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


def _falling_spans(
    key: NoiseKey, tokens: int, ring: int | Int[Tensor, "batch 1"], span: int, mask_fraction: float
) -> Int[Tensor, "batch draw"]:
    """Starts of spans in the order in which they fall: at random, at last in a sweep around the ring.

    Random ones are a quarter and 20 more than the mean number that covers the fraction (repetitions add nothing); the
    sweep serves the rare sample that needs still more, and sees to it that everything is covered in the end.
    """
    per_thousand = math.ceil(-1250 * math.log1p(-mask_fraction) / span)
    most = tokens * per_thousand // 1000 + 20
    random = ring * per_thousand // 1000 + 20
    number = torch.arange(most + math.ceil(tokens / span), device=key.device)
    start = _scale(key.bits(len(number), STREAM_SPANS), ring)
    sweep = (start[:, :1] + (number - random) * span) % ring
    return torch.where(number < random, start, sweep)


def _mean_starts(
    key: NoiseKey,
    tokens: int,
    lengths: int | Int[Tensor, "batch 1"],
    mask_fraction: float | None,
    start_probability: float | None,
    span: int,
    inside: bool,
) -> tuple[Float[Tensor, "*batch 1"], float]:
    """Mean number of starts of each sample, and the largest there is."""
    if span == tokens:
        raise UserError(f"one span of {span} hides the whole sequence of {tokens} tokens: choose a shorter span")
    if start_probability is not None and mask_fraction is None:
        check_start_probability(start_probability)
        real = torch.full((1, 1), tokens, device=key.device) if isinstance(lengths, int) else lengths
        return torch.where(real > span, real.to(torch.float32) * start_probability, 0.0), tokens * start_probability
    if mask_fraction is not None and start_probability is None:
        most = starts_for_coverage(tokens, span, mask_fraction, inside)
        if isinstance(lengths, int):
            return torch.full((1, 1), most, device=key.device), most
        return _starts_table(tokens, mask_fraction, span, inside, key.device)[lengths], most
    raise UserError("span_mask needs either mask_fraction or start_probability, and not both")


def _drawn_starts(
    key: NoiseKey,
    tokens: int,
    lengths: int | Int[Tensor, "batch 1"],
    mean: Float[Tensor, "*batch 1"],
    most: int,
    span: int,
    inside: bool,
) -> Bool[Tensor, "batch slot"]:
    """Where spans begin: ``mean`` places, rounded at random to ``most`` at most, without replacement in each sample.

    The first k different ones of a row of independent uniform draws are a uniformly random subset of k. For more than
    half of the places those left out are drawn instead, so that few draws are repetitions.
    """
    places = tokens - span + 1 if inside else tokens
    dense = not isinstance(lengths, int) or 2 * most > places
    draws = _draws_needed(min(most, (places + 1) // 2), 0.5 if dense else most / places)
    bits = key.bits(1 + draws, STREAM_STARTS)
    rounding = ((bits[:, :1] >> 8) & 0xFFFFFF) * 2.0**-24
    own_places = places if isinstance(lengths, int) else (lengths - (tokens - places)).clamp_min(0)
    count = (mean + rounding).to(torch.int64).clamp_max(own_places)
    start = _scale(bits[:, 1:], own_places)
    new = _first_draws(start, tokens).gather(1, start) == torch.arange(draws, device=key.device)
    inverted = 2 * count > own_places
    taken = new & (new.cumsum(1) <= (torch.where(inverted, own_places - count, count) if dense else count))
    # the draws not taken go to one more column, which is cut off again
    begins = torch.zeros(len(key), tokens + 1, dtype=torch.bool, device=key.device)
    begins = begins.scatter_(1, torch.where(taken, start, tokens), True)[:, :tokens]
    return (begins ^ inverted) & (torch.arange(tokens, device=key.device) < own_places) if dense else begins


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


def _scale(bits: Int[Tensor, "batch draw"], places: int | Int[Tensor, "batch 1"]) -> Int[Tensor, "batch draw"]:
    """Uniform whole numbers 0 ... places - 1 from 32 random bits (Lemire 2019, multiply and shift)."""
    return ((bits.to(torch.int64) & 0xFFFFFFFF) * places) >> 32


def _first_draws(start: Int[Tensor, "batch draw"], tokens: int) -> Int[Tensor, "batch slot"]:
    """For each slot the number of the first draw that hit it, or the number of draws when none did."""
    batch, draws = start.shape
    first = torch.full((batch, tokens), draws, dtype=torch.int32, device=start.device)
    number = torch.arange(draws, dtype=torch.int32, device=start.device).expand(batch, draws)
    return first.scatter_reduce_(1, start, number, "amin")


def _unrolled(
    ring_values: Shaped[Tensor, "batch slot"], ring: int | Int[Tensor, "batch 1"], span: int
) -> Shaped[Tensor, "batch wide"]:
    """The ``span - 1`` values before slot 0, which on a ring of ``ring`` slots are its last ones, then all values."""
    if isinstance(ring, int):
        before = ring_values[:, ring - span + 1 :]
    else:
        before = torch.arange(1 - span, 0, device=ring.device) % ring.clamp_min(1)
        before = ring_values.gather(1, before)
    return torch.cat([before, ring_values], 1)


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
