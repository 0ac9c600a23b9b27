"""Does an offset stay the same over a video? Constant, drift (two speeds of clocks) or step (one stream was cut)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.evaluation.offset.calibration import Calibration
from mmssl.evaluation.offset.curve import Curve, ShiftScores, mean_curve, read_peak

SEGMENT_SECONDS = 1.0
MOST_SEGMENTS = 120
"""A longer video has longer segments: every straight course through them is tried."""
FEWEST_SEGMENTS = 6
"""In a shorter video a change of the offset can't be told from luck."""
LEAST_CHANGE = 2
"""Frames: the answers on both sides of a smaller one are the same within their tolerance."""
EVIDENCE = 4.0
"""A course replaces a constant offset where it is this many standard errors better, counted over segments: the best
of some hundred courses is 2 to 3 better by luck."""


class Segments(NamedTuple):
    """Sums over stretches of windows, about a second each."""

    total: Float[Tensor, "segment shift"]
    pairs: Float[Tensor, "segment shift"]
    seconds: float
    """Length of each."""

    def curves(self) -> Curve:
        """One a segment."""
        return mean_curve(self.total, self.pairs)


@dataclass(frozen=True)
class Local:
    """The answer of one segment."""

    seconds: float
    """Its middle."""
    frames: float
    confidence: float | None


@dataclass(frozen=True)
class Course:
    """How the best shift goes over the video. Shifts in frames, of the first and the last moment."""

    kind: Literal["constant", "drift", "step"]
    start: float
    stop: float
    at: float | None = None
    """Seconds of a step."""

    def path(self, seconds: Float[Tensor, " segment"], length: float) -> Float[Tensor, " segment"]:
        """The shift at these moments of a video of ``length`` seconds."""
        if self.kind == "step":
            return torch.where(seconds < (self.at or 0.0), self.start, self.stop)
        return self.start + (self.stop - self.start) * seconds / max(length, 1e-9)


def segments_of(scores: ShiftScores, fps: float) -> Segments:
    """Cut windows into segments; what is left over at the end belongs to the last one."""
    count = len(scores.score)
    long = max(round(SEGMENT_SECONDS * fps), -(-count // MOST_SEGMENTS))
    many = max(count // long, 1)
    place = (torch.arange(count) // long).clamp_max(many - 1)
    shifts = scores.score.shape[1]
    total = torch.zeros(many, shifts).index_add_(0, place, scores.score * scores.weight)
    return Segments(total, torch.zeros(many, shifts).index_add_(0, place, scores.weight), long / fps)


def local_answers(segments: Segments, calibration: Calibration | None) -> list[Local]:
    """What every segment by itself says; segments without evidence say nothing."""
    curve = segments.curves()
    peak = read_peak(curve)
    sure = calibration.confidence(curve) if calibration else None
    middle = [(number + 0.5) * segments.seconds for number in range(len(curve.score))]
    return [
        Local(middle[number], float(peak.frames[number]), None if sure is None else float(sure[number]))
        for number in curve.valid.any(1).nonzero()[:, 0].tolist()
    ]


def find_course(segments: Segments, calibration: Calibration | None, least: float) -> Course:
    """The simplest course that explains the scores. ``least``: confidence that each side of a step must have."""
    gain, evidence = _gain(segments)
    reach = gain.shape[1] // 2
    constant = int(gain.sum(0).argmax())
    flat = Course("constant", float(constant - reach), float(constant - reach))
    if int(evidence.sum()) < FEWEST_SEGMENTS:
        return flat
    drift, drift_path = _best_drift(gain)
    step, step_path = _best_step(gain, segments.seconds)
    rows = torch.arange(len(gain))
    found = []
    for course, path in ((drift, drift_path), (step, step_path)):
        if course is None or abs(course.stop - course.start) < LEAST_CHANGE:
            continue
        better = (gain[rows, path] - gain[:, constant])[evidence]
        error = better.std() / len(better) ** 0.5
        if (
            better.mean() > EVIDENCE * error
            and better.mean() > 0
            and _believed(segments, path, course, calibration, least)
        ):
            found.append((float(gain[rows, path].sum()), course))
    return max(found, key=lambda pair: pair[0])[1] if found else flat


def _gain(segments: Segments) -> tuple[Float[Tensor, "segment shift"], Tensor]:
    """Score of each shift beyond the segment's mean, times its weight, and which segments have any."""
    curve = segments.curves()
    mean = (curve.score * curve.valid).sum(1, keepdim=True) / curve.valid.sum(1, keepdim=True).clamp_min(1)
    gain = torch.where(curve.valid, curve.score - mean, 0) * curve.pairs.amax(1, keepdim=True)
    return gain, curve.valid.any(1)


def _best_drift(gain: Float[Tensor, "segment shift"]) -> tuple[Course, Int[Tensor, " segment"]]:
    """The straight course with the highest sum, among all first and last shifts."""
    count, shifts = gain.shape
    along = ((torch.arange(count) + 0.5) / count)[:, None]
    stops = torch.arange(shifts)[None]
    best, chosen = -torch.inf, (0, 0)
    for start in range(shifts):
        path = (start + (stops - start) * along).round().long()  # [segment, stop]
        total = gain.gather(1, path).sum(0)
        if float(total.max()) > best:
            best, chosen = float(total.max()), (start, int(total.argmax()))
    start, stop = chosen
    path = (start + (stop - start) * along[:, 0]).round().long()
    return Course("drift", float(start - shifts // 2), float(stop - shifts // 2)), path


def _best_step(gain: Float[Tensor, "segment shift"], seconds: float) -> tuple[Course | None, Int[Tensor, " segment"]]:
    """The best two shifts and the moment between them; each lasts for two segments at least."""
    count, shifts = gain.shape
    before = gain.cumsum(0)
    after = before[-1] - before
    first, last = before.max(1), after.max(1)
    total = (first.values + last.values)[1 : count - 2]
    if not len(total):
        return None, torch.zeros(count, dtype=torch.int64)
    place = int(total.argmax()) + 1
    start, stop = int(first.indices[place]), int(last.indices[place])
    path = torch.where(torch.arange(count) <= place, start, stop)
    reach = shifts // 2
    return Course("step", float(start - reach), float(stop - reach), (place + 1) * seconds), path


def _believed(
    segments: Segments, path: Int[Tensor, " segment"], course: Course, calibration: Calibration | None, least: float
) -> bool:
    """Whether both ends give an answer by themselves: the first and the last segments, straightened by the course."""
    if calibration is None:
        return True
    count = len(path)
    rows = torch.arange(count)
    early = rows < count / 2 if course.kind == "drift" else path == path[0]
    for part in (early, ~early):
        total, weight = straighten(segments, path, part)
        curve = mean_curve(total, weight)
        if float(calibration.confidence(curve)) < least:
            return False
    return True


def straighten(
    segments: Segments, path: Int[Tensor, " segment"], part: Tensor | None = None
) -> tuple[Float[Tensor, " shift"], Float[Tensor, " shift"]]:
    """Sums over segments with their columns moved so that the path lies in the middle."""
    shifts = segments.total.shape[1]
    column = path[:, None] + torch.arange(shifts) - shifts // 2
    exists = (column >= 0) & (column < shifts)
    if part is not None:
        exists &= part[:, None]
    column = column.clamp(0, shifts - 1)
    return (segments.total.gather(1, column) * exists).sum(0), (segments.pairs.gather(1, column) * exists).sum(0)
