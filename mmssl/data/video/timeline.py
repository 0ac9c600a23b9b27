"""Two streams on one clock, as arithmetic: which source frame is shown when, and where both streams exist.

Everything is in seconds on the container's clock. Nothing here decodes.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

STILL_SECONDS = 0.5
"""No new picture for so long, and for more than three usual intervals, is a gap."""
_JITTER = 1.5e-3
"""Seconds: time stamps that were rounded to milliseconds on the way make intervals differ by 1 ms."""
_ROUNDING = 0.02
"""Frames by which an end may fall short of a whole frame: clocks of milliseconds round."""


@dataclass
class Grid:
    """Hands source frames, one after the other, to the frames of a clip: the last one with time <= start + i / fps.

    ``slack`` is half a tick of the container's clock: a time stamp is known no better than that.
    """

    start: float
    fps: float
    slack: float
    filled: int = 0
    """Frames of the clip that have their picture."""

    def until(self, time: float) -> int:
        """How many more frames of the clip come before a source frame at ``time``: they show the one before it."""
        before = math.ceil((time - self.slack - self.start) * self.fps)
        count = max(0, before - self.filled)
        self.filled += count
        return count


def frames_within(start: float, end: float, fps: float) -> int:
    """Whole frames from ``start`` on that have ended at ``end``."""
    return max(0, math.floor((end - start) * fps + _ROUNDING))


def usual_interval(times: Float64[np.ndarray, " frame"]) -> float:
    """Seconds between source frames: the mean of intervals near their median; 0 for fewer than two frames."""
    if len(times) < 2:
        return 0.0
    intervals = np.diff(times)
    median = np.median(intervals)
    return float(intervals[np.abs(intervals - median) <= max(0.1 * median, _JITTER)].mean())


def is_variable(times: Float64[np.ndarray, " frame"], tick: float) -> bool:
    """Whether intervals differ from the usual one by more than rounding to ticks, or to 1 ms, explains."""
    if len(times) < 3:
        return False
    return bool(np.abs(np.diff(times) - usual_interval(times)).max() > max(2 * tick, _JITTER))


def still_gaps(times: Float64[np.ndarray, " frame"]) -> tuple[tuple[float, float], ...]:
    """(where, seconds) no new picture came for a long time."""
    intervals = np.diff(times)
    long = np.flatnonzero(intervals >= max(STILL_SECONDS, 3.001 * usual_interval(times)))
    return tuple((float(times[place]), float(intervals[place])) for place in long)
