"""Closed forms of what the samplers do: oracles for tests, conversions for samplers, curves for teaching.

Span masks. Write M for the span, n for the length and k for the number of starts. Two readings of "start probability":

- *long sequences*: every position is a start with probability p, independently; :func:`span_coverage`,
  :func:`start_probability` and :func:`mean_run_length` need no length.
- *as sampled* (Baevski et al. 2020, wav2vec 2.0, arXiv 2006.11477, section 3.1 and appendix A): k = p * n starts
  without replacement, k rounded up or down at random so that its mean is kept. ``inside=False``: starts lie anywhere
  and a span that leaves at the end comes in at the beginning, so every position has the same coverage.
  ``inside=True``, the published form: starts lie in 0 ... n - M, so that the first and last positions are rarely
  hidden.
"""

import math
from collections.abc import Callable

from mmssl.errors import UserError


def check_fraction(mask_fraction: float) -> None:
    """Refuse a ``mask_fraction`` that is not strictly between 0 and 1."""
    if not (isinstance(mask_fraction, int | float) and 0.0 < mask_fraction < 1.0):
        raise UserError(f"mask_fraction must be between 0 and 1 (0.75 hides three quarters), got {mask_fraction}")


def hidden_count(length: int, mask_fraction: float) -> int:
    """How many of ``length`` tokens are hidden: all but ``int(length * (1 - mask_fraction))``, as MAE counts.

    He et al. 2022 (arXiv 2111.06377), reference code: ``len_keep = int(L * (1 - mask_ratio))``.

    Raises:
        UserError: for a fraction outside (0, 1), or one that leaves nothing hidden or nothing visible at this length.
    """
    check_fraction(mask_fraction)
    visible = int(length * (1 - mask_fraction))
    if not 1 <= visible <= length - 1:
        nothing = "visible" if visible < 1 else "hidden"
        raise UserError(
            f"mask_fraction {mask_fraction} of {length} tokens leaves nothing {nothing}: choose another one"
        )
    return length - visible


def check_span(length: int, span: int) -> None:
    """Refuse a span that is not between 1 and the length of the sequence."""
    if not isinstance(span, int) or span < 1:
        raise UserError(f"span must be a whole number of at least 1 token, got {span}")
    if span > length:
        raise UserError(f"span {span} is longer than the sequence of {length} tokens: choose a shorter span")


def check_start_probability(probability: float) -> None:
    """Refuse a start probability that is not strictly between 0 and 1."""
    if not (isinstance(probability, int | float) and 0.0 < probability < 1.0):
        raise UserError(f"start_probability must be between 0 and 1 (wav2vec 2.0 uses 0.065), got {probability}")


def span_coverage(start_probability: float, span: int) -> float:
    """Share of hidden positions, 1 - (1 - p)^M: a position is visible when none of the M starts that cover it is drawn.

    0.065 and 10 give 0.489; wav2vec 2.0, section 4.2, reports approximately 49 %.
    """
    return -math.expm1(span * math.log1p(-start_probability))


def start_probability(mask_fraction: float, span: int) -> float:
    """Inverse of :func:`span_coverage`: 1 - (1 - f)^(1 / M)."""
    return -math.expm1(math.log1p(-mask_fraction) / span)


def mean_run_length(start_probability: float, span: int) -> float:
    """Mean length of a run of hidden positions, f / (p (1 - p)^M), with f the coverage.

    A run begins where a start has no start among the M positions before it, which happens with p (1 - p)^M a position.
    0.065 and 10 give 14.7, as wav2vec 2.0, section 4.2, reports.
    """
    begins = start_probability * (1 - start_probability) ** span
    return span_coverage(start_probability, span) / begins


def position_coverage(length: int, span: int, starts: int | float, inside: bool = False) -> list[float]:
    """Probability that each position is hidden, ``starts`` (need not be whole) being the mean number of starts."""
    check_span(length, span)
    domain = _domain(length, span, inside)
    return [
        1 - _over_roundings(starts, domain, lambda k, w=w: _none_of(domain, w, k))
        for w in (_covering(position, length, span, inside) for position in range(length))
    ]


def expected_coverage(length: int, span: int, starts: int | float, inside: bool = False) -> float:
    """Mean share of hidden positions with ``starts`` (need not be whole) starts on average."""
    check_span(length, span)
    return _over_roundings(starts, _domain(length, span, inside), lambda k: _whole_coverage(length, span, k, inside))


def expected_runs(length: int, span: int, starts: int | float, inside: bool = False) -> float:
    """Mean number of runs of hidden positions in a sequence read from beginning to end.

    A run begins at a start without another one among the ``span`` positions before it; and at position 0 when a span
    that wrapped around covers it. Mean run length = length * :func:`expected_coverage` / runs (a ratio of means).
    """
    check_span(length, span)
    return _over_roundings(starts, _domain(length, span, inside), lambda k: _whole_runs(length, span, k, inside))


def starts_for_coverage(length: int, span: int, mask_fraction: float, inside: bool = False) -> float:
    """Mean number of starts that gives ``mask_fraction`` at this very length: inverse of :func:`expected_coverage`.

    Between two whole numbers the coverage is linear in the mean number of starts, so the inversion is exact.
    """
    check_fraction(mask_fraction)
    most = _domain(length, span, inside)
    starts = min(int(most * start_probability(mask_fraction, span)), most - 1)
    below = _whole_coverage(length, span, starts, inside)
    while starts > 0 and below > mask_fraction:
        starts -= 1
        below = _whole_coverage(length, span, starts, inside)
    above = _whole_coverage(length, span, starts + 1, inside)
    while above < mask_fraction and starts + 1 < most:
        starts += 1
        below, above = above, _whole_coverage(length, span, starts + 1, inside)
    return starts + min((mask_fraction - below) / (above - below), 1.0)


def _whole_coverage(length: int, span: int, starts: int, inside: bool) -> float:
    domain = _domain(length, span, inside)
    if not inside:
        return 1 - _none_of(domain, span, starts)
    # all positions further than a span from both ends are alike
    edge = min(span, length // 2)
    outer = sum(_none_of(domain, _covering(position, length, span, True), starts) for position in range(edge))
    inner = (length - 2 * edge) * _none_of(domain, _covering(edge, length, span, True), starts)
    return 1 - (2 * outer + inner) / length


def _whole_runs(length: int, span: int, starts: int, inside: bool) -> float:
    domain = _domain(length, span, inside)
    if not inside:
        # a span as long as the ring leaves no visible position before its start
        later = (length - 1) * _start_after_none(domain, span, starts) if span < length else 0.0
        return _whole_coverage(length, span, starts, inside) + later
    near = min(span, domain)
    first = sum(_start_after_none(domain, before, starts) for before in range(near))
    return first + (domain - near) * _start_after_none(domain, span, starts)


def _domain(length: int, span: int, inside: bool) -> int:
    return length - span + 1 if inside else length


def _covering(position: int, length: int, span: int, inside: bool) -> int:
    """Number of possible starts whose span covers ``position``."""
    return min(position + 1, span, length - position, length - span + 1) if inside else span


def _none_of(domain: int, places: int, starts: int) -> float:
    """Probability that ``starts`` draws without replacement out of ``domain`` avoid ``places`` given ones."""
    if starts > domain - places:
        return 0.0
    return math.prod((1 - starts / (domain - place) for place in range(places)), start=1.0)


def _start_after_none(domain: int, places: int, starts: int) -> float:
    """Probability that one given place is a start and ``places`` other ones are not."""
    return starts / domain * _none_of(domain - 1, places, starts - 1) if starts else 0.0


def _over_roundings(starts: int | float, most: int, probability: Callable[[int], float]) -> float:
    """Mean of ``probability`` over ``starts`` rounded down or up at random with its mean kept."""
    low = min(math.floor(starts), most)
    share = starts - low if low < most else 0.0
    return (1 - share) * probability(low) + (share * probability(low + 1) if share else 0.0)
