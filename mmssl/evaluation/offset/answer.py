"""From scores to an answer in words, or to the reason why there is none."""

from typing import Any

import torch

from mmssl.evaluation.offset.calibration import Calibration
from mmssl.evaluation.offset.course import Course, Local, Segments, find_course, local_answers, segments_of, straighten
from mmssl.evaluation.offset.curve import (
    LEVEL,
    Curve,
    ShiftScores,
    bootstrap_frames,
    curve_of,
    mean_curve,
    read_peak,
    second_peak,
)
from mmssl.evaluation.offset.question import LEAST_WINDOWS, Answer, Question, in_words, undetermined

PERIODIC_SHARE = 0.8
"""A second peak this high is worth a warning."""


def answer(
    scores: ShiftScores, seen: float, heard: float, calibration: Calibration | None, question: Question
) -> Answer:
    """The offset of a video.

    Args:
        scores: of all its windows.
        seen: how many of them show something that moves.
        heard: how many of them sound.
        calibration: of the run; None gives answers without a confidence.
        question: what is asked.
    """
    count = len(scores.score)
    frames = count + question.window - 1 if count else 0
    known: dict[str, Any] = {"seconds": frames / question.fps}
    if frames < question.least_frames:
        return undetermined(
            "too short",
            f"only {known['seconds']:.1f} s have both picture and sound, and a search of {question.far:.0f} ms to "
            f"either side needs {question.least_frames / question.fps:.1f} s",
            **known,
        )
    if heard < LEAST_WINDOWS:
        return undetermined("silence", "there is next to nothing to hear", **known)
    if seen < LEAST_WINDOWS:
        return undetermined("still picture", "next to nothing moves in the picture", **known)
    known["curve"] = curve = curve_of(scores)
    if float(curve.pairs.max()) < LEAST_WINDOWS:
        return undetermined("silence", "nothing moves while there is something to hear", **known)
    segments = segments_of(scores, question.fps)
    known["local"] = tuple(local_answers(segments, calibration))
    course = find_course(segments, calibration, question.least_confidence)
    known["course"] = course.kind
    if course.kind == "constant":
        return _constant(scores, curve, calibration, question, known)
    return _changing(segments, course, calibration, question, known)


def _constant(
    scores: ShiftScores, curve: Curve, calibration: Calibration | None, question: Question, known: dict[str, Any]
) -> Answer:
    """One offset from beginning to end."""
    peak = read_peak(curve)
    frames = float(peak.frames)
    offset = question.ms(frames)
    sure = float(calibration.confidence(curve)) if calibration else None
    known |= {"confidence": sure, "best_ms": offset, "votes": _votes(known["local"], frames)}
    known |= _second(curve, question)
    if bool(peak.at_edge):
        return undetermined(
            "edge of the range",
            f"the best shift lies at the edge of the search of {question.far:.0f} ms to either side, so the true one "
            "may lie outside: search further with --search-ms, or sound and picture do not belong together",
            **known,
        )
    if sure is not None and sure < question.least_confidence:
        return undetermined(
            "low confidence",
            f"no shift fits as well as in the clips of the calibration (the best is {offset:+.0f} ms, with a "
            f"probability of {sure:.2f})",
            **known,
        )
    interval = _interval(scores, frames, calibration, question)
    in_sync = question.tolerates(offset)
    said = in_words(offset)
    if in_sync:
        said = f"in sync: {said}" if round(offset) else "in sync"
    sentence = f"{said} ({_spread(interval, offset)}, {_confidence(sure)})"
    return Answer(offset, interval, sentence, in_sync, course_ms=(offset, offset), **known)


def _changing(
    segments: Segments, course: Course, calibration: Calibration | None, question: Question, known: dict[str, Any]
) -> Answer:
    """The offset drifts or jumps: told by its two ends; the one number is the mean over the video."""
    many = len(segments.total)
    length = many * segments.seconds
    path = course.path((torch.arange(many) + 0.5) * segments.seconds, length)
    reach = segments.total.shape[1] // 2
    straight = mean_curve(*straighten(segments, (path.round().long() + reach).clamp(0, 2 * reach)))
    sure = float(calibration.confidence(straight)) if calibration else None
    start, stop, offset = question.ms(course.start), question.ms(course.stop), question.ms(float(path.mean()))
    known |= {"confidence": sure, "best_ms": offset, "course_ms": (start, stop), "course_at": course.at}
    known["votes"] = _votes(
        known["local"], course.path(torch.tensor([each.seconds for each in known["local"]]), length)
    )
    if sure is not None and sure < question.least_confidence:
        return undetermined("low confidence", "no course of shifts stands out", **known)
    if course.kind == "drift":
        rate = (stop - start) / (length / 60)
        said = f"the offset drifts by {rate:+.0f} ms a minute: at the beginning {in_words(start)}, at the end "
        said += in_words(stop)
    else:
        said = f"the offset jumps at {course.at:.0f} s: before, {in_words(start)}; after, {in_words(stop)}"
    half = question.ms(-1)
    in_sync = question.tolerates(start) and question.tolerates(stop)
    return Answer(offset, (offset - half, offset + half), f"{said} ({_confidence(sure)})", in_sync, **known)


def _votes(local: tuple[Local, ...], frames: Any) -> tuple[int, int]:
    """How many segments agree with a shift, or with one for each, to within a frame; and how many there are."""
    near = (torch.tensor([each.frames for each in local]) - frames).abs() <= 1.0
    return int(near.sum()), len(local)


def _second(curve: Curve, question: Question) -> dict[str, Any]:
    second = second_peak(curve)
    if second is None:
        return {}
    offset = question.ms(second.frames)
    found: dict[str, Any] = {"second_peak_ms": offset, "second_peak_share": second.share}
    if second.share >= PERIODIC_SHARE:
        found["warning"] = (
            f"a second peak at {offset:+.0f} ms is {second.share:.0%} as high: a movement that repeats fits its "
            "sound at several shifts"
        )
    return found


def _interval(
    scores: ShiftScores, frames: float, calibration: Calibration | None, question: Question
) -> tuple[float, float]:
    """Where 90 % of resampled curves have their peak, never narrower than the errors seen on known shifts."""
    least = calibration.error_frames if calibration else 0.5
    found = bootstrap_frames(scores, question.window)
    low, high = frames - 1.0, frames + 1.0
    if found is not None and len(found):
        low, high = (float(found.quantile(share)) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    low, high = min(low, frames - least), max(high, frames + least)
    return question.ms(high), question.ms(low)


def _spread(interval: tuple[float, float], offset: float) -> str:
    below, above = offset - interval[0], interval[1] - offset
    if abs(above - below) <= 0.25 * (above + below):
        return f"±{(above + below) / 2:.0f} ms"
    return f"between {interval[0]:+.0f} and {interval[1]:+.0f} ms"


def _confidence(sure: float | None) -> str:
    return "confidence unknown: the run is not calibrated" if sure is None else f"confidence {sure:.2f}"
