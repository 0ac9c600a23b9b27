"""From a recording's own rate to the model's, by torchaudio's resampler (a windowed sinc, Hann, 6 zero crossings).

A segment of the resampled recording is made from a little more of the original on both sides, as much as the filter is
wide, and begins at a frame where both rates are in phase: so it equals the same segment of the whole, resampled.

Rates stand in a ratio ``down : up`` without common factor, e.g. 441 : 160 from 44.1 to 16 kHz. Rates that are nearly
coprime (44,056 Hz) would need a filter for each of thousands of phases; their ratio is rounded to one with at most
MOST_PHASES, which changes pitch and length by less than 0.08 % at the worst and by nothing at usual rates.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl.data.limits import untimed
from mmssl.errors import UserError

MOST_PHASES = 640
"""Enough for every usual pair: 11.025 to 16 kHz is 441 : 640."""
# torchaudio's defaults, written down because the margin follows from them
_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99

Fetch = Callable[[int, int], Float32[np.ndarray, " frame"]]


@lru_cache(maxsize=256)
def ratio(rate: int, target: int) -> tuple[int, int]:
    """(down, up): ``down`` frames at ``rate`` take as long as ``up`` samples at ``target``."""
    exact = Fraction(rate, target)
    if exact.denominator > MOST_PHASES:
        exact = exact.limit_denominator(MOST_PHASES)
    return max(exact.numerator, 1), exact.denominator


def resampled_length(frames: int, rate: int, target: int) -> int:
    """Samples that ``frames`` become."""
    down, up = ratio(rate, target)
    return -(-frames * up // down)


def margin_periods(down: int, up: int) -> int:
    """How many times ``down`` frames the filter reaches to each side, rounded up."""
    return math.ceil(math.ceil(_ZERO_CROSSINGS * down / (min(down, up) * _ROLLOFF)) / down)


@lru_cache(maxsize=16)
def _resampler(down: int, up: int) -> Any:
    try:
        with untimed():
            from torchaudio.transforms import Resample
    except ImportError:
        raise UserError("torchaudio is needed to change the sample rate: pip install 'mmssl[audio]'") from None
    return Resample(down, up, lowpass_filter_width=_ZERO_CROSSINGS, rolloff=_ROLLOFF)


def _resample(frames: Float32[np.ndarray, " frame"], down: int, up: int) -> Float32[np.ndarray, " sample"]:
    resampler = _resampler(down, up)  # loads torch, which takes seconds; a worker may need it for nothing else
    import torch

    return resampler(torch.from_numpy(np.ascontiguousarray(frames))).numpy()


def resample_segment(
    fetch: Fetch, frames: int, rate: int, target: int, start: int, stop: int
) -> Float32[np.ndarray, " sample"]:
    """Samples ``start`` to ``stop`` of the recording at ``target`` Hz.

    Args:
        fetch: gives frames (start, stop) at the recording's own rate.
        frames: how many there are.
        rate, target: frames and samples a second.
        start, stop: within :func:`resampled_length`.
    """
    down, up = ratio(rate, target)
    if down == up:
        return fetch(start, stop)
    margin = margin_periods(down, up)
    first = max(0, start // up - margin)
    last = -(-stop // up) + margin
    found = fetch(first * down, min(last * down, frames))
    return _resample(found, down, up)[start - first * up : stop - first * up]


def resample_blocks(
    blocks: Iterable[Float32[np.ndarray, " _"]], rate: int, target: int
) -> Iterator[Float32[np.ndarray, " _"]]:
    """The whole recording, block by block: never more of it in memory than a block."""
    down, up = ratio(rate, target)
    if down == up:
        yield from blocks
        return
    margin = margin_periods(down, up)
    waiting = np.zeros(margin * down, np.float32)
    frames = done = 0
    for block in blocks:
        frames += len(block)
        waiting = np.concatenate([waiting, block])
        periods = len(waiting) // down - 2 * margin
        if periods > 0:
            yield _inner(waiting[: (periods + 2 * margin) * down], margin, periods, down, up)
            waiting = waiting[periods * down :]
            done += periods * up
    left = resampled_length(frames, rate, target) - done
    if left > 0:
        periods = -(-left // up)
        missing = (periods + 2 * margin) * down - len(waiting)
        yield _inner(np.pad(waiting, (0, max(0, missing))), margin, periods, down, up)[:left]


def _inner(
    frames: Float32[np.ndarray, " frame"], margin: int, periods: int, down: int, up: int
) -> Float32[np.ndarray, " sample"]:
    return _resample(frames, down, up)[margin * up : (margin + periods) * up]
