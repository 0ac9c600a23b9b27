"""What is asked of a video, and what is answered."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mmssl.errors import UserError
from mmssl.evaluation.offset.course import Local
from mmssl.evaluation.offset.curve import LEAST_SHARE, Curve

LEAST_CONFIDENCE = 0.5
"""An answer below is more likely wrong than right, and not given."""
LEAST_WINDOWS = 10
"""Windows in which something sounds and something moves."""
LEAD_MS, LAG_MS = 45.0, 125.0
"""What viewers don't notice: sound that leads by up to 45 ms or lags by up to 125 ms (ITU-R BT.1359-1)."""

Reason = Literal[
    "no sound track", "no picture", "too short", "silence", "still picture", "edge of the range", "low confidence"
]


@dataclass(frozen=True)
class Question:
    """What is asked of a video."""

    reach: int = 15
    """Frames searched on either side."""
    fps: float = 25.0
    window: int = 5
    """Frames of a window."""
    least_confidence: float = LEAST_CONFIDENCE
    lead_ms: float = LEAD_MS
    """Sound may lead by so much and still be called in sync."""
    lag_ms: float = LAG_MS
    """And lag by so much."""

    def __post_init__(self) -> None:
        if self.reach < 3:
            raise UserError(f"a search of {self.far:.0f} ms is too narrow: give at least {3000 / self.fps:.0f}")
        if not 0 <= self.least_confidence <= 1:
            raise UserError(f"a confidence lies between 0 and 1, got {self.least_confidence:g}")
        if self.lead_ms < 0 or self.lag_ms < 0:
            raise UserError(f"tolerances are not negative, got {self.lead_ms:g} and {self.lag_ms:g} ms")

    @property
    def far(self) -> float:
        """Milliseconds searched on either side."""
        return 1000.0 * self.reach / self.fps

    def ms(self, frames: float | int) -> float:
        """The offset that a shift means: positive = the sound leads."""
        return -1000.0 * frames / self.fps + 0.0  # + 0.0: there is no "-0"

    def tolerates(self, offset_ms: float) -> bool:
        """Whether viewers would call it in sync."""
        return -self.lag_ms <= offset_ms <= self.lead_ms

    @property
    def least_frames(self) -> int:
        """A shorter video lacks pairs of windows at the ends of the search range."""
        return max(-int(-self.reach // (1 - LEAST_SHARE)), LEAST_WINDOWS) + self.window + 1


@dataclass(frozen=True)
class Answer:
    """What is known of the offset of one video. Offsets in ms, positive = the sound leads."""

    offset_ms: float | None
    """None where undetermined."""
    interval_ms: tuple[float, float] | None
    """90 % of resamples lie inside."""
    sentence: str
    in_sync: bool | None
    """Within the tolerance from beginning to end; None where undetermined."""
    reason: Reason | None = None
    """Why it is undetermined."""
    confidence: float | None = None
    """Probability that the best guess is right to within a frame; None without a calibration."""
    best_ms: float | None = None
    """The best guess, given or not."""
    course: Literal["constant", "drift", "step"] | None = None
    course_ms: tuple[float, float] | None = None
    """At the beginning and at the end."""
    course_at: float | None = None
    """Seconds of a step."""
    second_peak_ms: float | None = None
    """The highest other hill of the curve."""
    second_peak_share: float | None = None
    """Its height above the mean of the curve as a share of the peak's."""
    votes: tuple[int, int] | None = None
    """How many seconds, each by itself, agree to within a frame, and of how many."""
    warning: str | None = None
    seconds: float = 0.0
    """Both picture and sound."""
    curve: Curve | None = field(default=None, repr=False)
    local: tuple[Local, ...] = field(default=(), repr=False)


def undetermined(reason: Reason, why: str, **known: Any) -> Answer:
    """No answer, and why not."""
    return Answer(None, None, f"undetermined: {why}", None, reason=reason, **known)


def in_words(offset_ms: float) -> str:
    """ "the sound lags the picture by 120 ms"."""
    if round(offset_ms) == 0:
        return "sound and picture are at the same moment"
    return f"the sound {'leads' if offset_ms > 0 else 'lags'} the picture by {abs(offset_ms):.0f} ms"
