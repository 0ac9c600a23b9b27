"""From the shape of a curve to the probability that its answer is right: fitted on known shifts in held-out clips.

A margin means nothing by itself: it depends on the network, on how many windows were averaged, and on the search range.
Logistic regression (Platt 1999) on a few statistics of the curve turns it into a probability that can be checked.
Another clip's sound and offsets beyond the search range are among its examples, and every answer to those is wrong.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.config import from_dict, read_json, to_dict
from mmssl.data.video import ClipSource
from mmssl.errors import UserError
from mmssl.evaluation.offset.curve import LEVEL, Curve, read_peak
from mmssl.evaluation.offset.injected import CONTEXTS, Injected, KnownClip, inject, know_clips, usable_clips

FILE = "calibration.json"
EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Bins of the table of expected calibration."""
REPEATS = {"own": 12, "other": 4, "outside": 4}
"""Draws a clip and context: two answers of five can't be right. A guess at how careless users are."""
RIDGE = 1e-3
"""Keeps the slopes finite where right and wrong answers can be told apart perfectly."""


@dataclass(frozen=True)
class Bin:
    """What became of the answers given with a confidence between ``low`` and ``high``."""

    low: float
    high: float
    answers: int
    confidence: float
    """Their mean."""
    right: float
    """Share within one frame of the truth."""


@dataclass(frozen=True)
class Calibration:
    """How confident a run's answers may be."""

    slopes: tuple[float, ...]
    bias: float
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    most_pairs: float
    """Pairs of windows in the longest example, in windows that share no frame: longer videos count as that long."""
    error_frames: float
    """Nine tenths of the right answers of the longest context lie this near to the truth."""
    window: int
    """Frames of a window."""
    fps: float
    clips: int
    samples: int
    data: str = ""
    """Fingerprint of the clips."""
    cut: dict[str, Any] = field(default_factory=dict)
    """How the clips were cut from their videos: :meth:`mmssl.data.video.ClipSettings.key`."""
    expected: tuple[Bin, ...] = ()
    """Confidence against share of right answers, each clip judged by a fit to other clips."""

    def confidence(self, curve: Curve) -> Float[Tensor, "*curve"]:
        """Probability that the peak of a curve is within one frame of the truth."""
        x = statistics(curve, self.window, self.most_pairs)
        x = (x - torch.tensor(self.centre)) / torch.tensor(self.spread)
        return torch.sigmoid(x @ torch.tensor(self.slopes) + self.bias)

    def save(self, run: Path) -> Path:
        """Write RUN/calibration.json."""
        file, partial = run / FILE, run / f".{FILE}.new"
        partial.write_text(json.dumps(to_dict(self), indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
        return file


def load_calibration(run: Path) -> Calibration | None:
    """The calibration of a run, None where it has none. Raises UserError where the file is damaged."""
    file = run / FILE
    return from_dict(Calibration, read_json(file), str(file)) if file.is_file() else None


def statistics(curve: Curve, window: int, most_pairs: float) -> Float[Tensor, "*curve 5"]:
    """Margin of the peak, the same in standard errors, its height in standard deviations, its score, and the evidence.

    The score itself tells sound that belongs to the picture from other sound that happens to fit best somewhere; it is
    lower on faces and voices unlike those calibrated on, so these get little confidence, right or wrong. Overlapping
    windows say the same thing, so evidence is counted in windows that share no frame.
    """
    peak = read_peak(curve)
    top = curve.score.gather(-1, peak.column[..., None])[..., 0]
    pairs = (curve.pairs.gather(-1, peak.column[..., None])[..., 0] / window).clamp_min(1e-3)
    evidence = pairs.clamp_max(most_pairs).log()
    return torch.stack([peak.margin, peak.margin * pairs.sqrt(), peak.height, top, evidence], -1)


def calibrate(run: Path, predictor: Any, source: ClipSource, *, seed: int = 0) -> Calibration:
    """Calibrate a run on held-out clips that are in sync, and write RUN/calibration.json.

    Args:
        run: Run folder.
        predictor: Its network.
        source: Clips held out from training; at most 200 of them are used, evenly spaced.
        seed: Of the shifts.

    Raises UserError where no clip is long enough, or none says anything.
    """
    settings = source.settings
    known = know_clips(predictor, usable_clips(source), seed=seed)
    calibration = replace(
        fit_calibration(known, predictor.config.window, seed=seed, fps=settings.fps),
        data=source.fingerprint(), cut=settings.key(),
    )  # fmt: skip
    calibration.save(run)
    return calibration


def fit_calibration(known: Sequence[KnownClip], window: int, *, seed: int = 0, fps: float = 25.0) -> Calibration:
    """Fit to all clips; the table of expected calibration is made by two fits, each to every other clip."""
    samples = [
        inject(known, context, window, repeats=REPEATS[kind], seed=seed + 97 * number + len(kind), kind=kind)
        for number, context in enumerate(CONTEXTS)
        for kind in ("own", "other", "outside")
    ]
    curve = Curve(*(torch.cat(each) for each in zip(*(sample.curve for sample in samples), strict=True)))
    peak = read_peak(curve)
    right = torch.cat([sample.right(read_peak(sample.curve).frames) for sample in samples])
    clip = torch.cat([sample.clip for sample in samples])
    judged = curve.valid.any(-1) & ~peak.at_edge  # others are refused before their confidence is asked for
    if not judged.any():
        raise UserError("no clip gives an answer that could be calibrated: they are silent, still or too short")
    curve, right, clip = Curve(*(each[judged] for each in curve)), right[judged], clip[judged]
    fitted = _fit(curve, right, window)
    order = {number: place for place, number in enumerate(sorted(set(clip.tolist())))}
    fold = torch.tensor([order[number] % 2 for number in clip.tolist()])
    return replace(
        fitted, error_frames=_error(samples), fps=fps, clips=len(known), samples=len(right),
        expected=expected_table(_crossed(curve, right, fold, window, fitted), right),
    )  # fmt: skip


def _fit(curve: Curve, right: Bool[Tensor, " sample"], window: int) -> Calibration:
    """Logistic regression. A higher or steeper peak never lowers the probability: of the slopes, only the last, that of
    the amount of evidence, may be negative, and a statistic whose slope would be is left out."""
    most = float((curve.pairs.amax(-1) / window).max())
    x = statistics(curve, window, most).double()
    centre, spread = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-6)
    x = torch.cat([(x - centre) / spread, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    used = torch.ones(6, dtype=torch.bool)
    while True:
        found = torch.zeros(6, dtype=torch.float64).masked_scatter(used, _newton(x[:, used], right.double()))
        lowest = int(found[:4].argmin())
        if found[lowest] >= 0:
            break
        used[lowest] = False
    return Calibration(
        tuple(found[:5].tolist()), float(found[5]), tuple(centre.tolist()), tuple(spread.tolist()), most,
        error_frames=1.0, window=window, fps=25.0, clips=0, samples=len(right),
    )  # fmt: skip


def _newton(x: Float[Tensor, "sample statistic"], right: Float[Tensor, " sample"]) -> Float[Tensor, " statistic"]:
    """Slopes with the highest likelihood less the ridge, by Newton's method with halved steps; the last column is 1."""
    ridge = torch.full((x.shape[1],), RIDGE * len(x), dtype=x.dtype)
    ridge[-1] = 1e-6

    def loss(found: Tensor) -> float:
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(x @ found, right, reduction="sum")
        return float(entropy + 0.5 * (ridge * found.square()).sum())

    found = x.new_zeros(x.shape[1])
    for _ in range(50):
        p = torch.sigmoid(x @ found)
        slope = x.T @ (p - right) + ridge * found
        step = torch.linalg.solve((x.T * (p * (1 - p))) @ x + torch.diag(ridge), slope)
        scale, before = 1.0, loss(found)
        while loss(found - scale * step) > before and scale > 1e-6:
            scale /= 2
        found = found - scale * step
        if float(step.abs().max()) * scale < 1e-8:
            break
    return found


def _crossed(
    curve: Curve, right: Bool[Tensor, " sample"], fold: Int[Tensor, " sample"], window: int, fitted: Calibration
) -> Float[Tensor, " sample"]:
    """The confidence of every sample by a fit to the clips of the other half; with one clip, by the fit itself."""
    if len(set(fold.tolist())) < 2:
        return fitted.confidence(curve)
    result = torch.zeros(len(right))
    for half in (0, 1):
        inside, outside = fold == half, fold != half
        fit = _fit(Curve(*(each[outside] for each in curve)), right[outside], window)
        result[inside] = fit.confidence(Curve(*(each[inside] for each in curve)))
    return result


def _error(samples: Sequence[Injected]) -> float:
    """How far right answers of the longest context lie from the truth."""
    longest = max((sample for sample in samples if sample.kind == "own"), key=lambda sample: int(sample.context[0]))
    frames = read_peak(longest.curve).frames
    errors = (frames - longest.truth).abs()[longest.right(frames)]
    return float(errors.quantile(LEVEL)) if len(errors) else 1.0


def expected_table(confidence: Float[Tensor, " sample"], right: Bool[Tensor, " sample"]) -> tuple[Bin, ...]:
    """Bins of confidence that hold answers."""
    bins = []
    for low, high in pairwise(EDGES):
        inside = (confidence >= low) & ((confidence < high) | (high == EDGES[-1]))
        if inside.any():
            mean = float(confidence[inside].mean())
            bins.append(Bin(low, high, int(inside.sum()), mean, float(right[inside].float().mean())))
    return tuple(bins)
