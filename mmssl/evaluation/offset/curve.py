"""Scores of picture and sound at every shift: pure functions on embedded windows.

Nothing is padded: a shift is judged by the pairs of windows that exist at it, and pairs with a still picture or with
silence weigh nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEIGHBOURS = 1
"""Shifts this near to the peak give the same answer: the published tolerance of a frame (Chung and Zisserman 2016)."""
LEAST_SHARE = 0.25
"""A shift with fewer pairs than this share of the most is not judged: the mean of a few pairs is high by luck."""
RESAMPLES = 400
LEVEL = 0.9
"""Share of resamples inside an interval."""
BLOCKS = 200
"""At most so many blocks are resampled: more are summed first."""
FEWEST_BLOCKS = 4
"""Fewer say nothing about their own spread."""

Score = Callable[[Float[Tensor, "visual dim"], Float[Tensor, "audio dim"]], Float[Tensor, "visual audio"]]
"""Agreement of every visual with every audio window."""


@dataclass(frozen=True)
class ShiftScores:
    """Agreement of the picture at each window with the sound at each shift; column ``reach + k`` is shift k."""

    score: Float[Tensor, "window shift"]
    weight: Float[Tensor, "window shift"]
    """0 where there is no such audio window, or nothing to see or to hear."""

    @property
    def reach(self) -> int:
        """The largest shift, in frames."""
        return self.score.shape[1] // 2

    def rows(self, start: int, stop: int) -> "ShiftScores":
        """Some of the windows."""
        return ShiftScores(self.score[start:stop], self.weight[start:stop])


class Curve(NamedTuple):
    """Mean agreement by shift; several curves at once have leading axes."""

    score: Float[Tensor, "*curve shift"]
    """0 where not ``valid``."""
    valid: Bool[Tensor, "*curve shift"]
    pairs: Float[Tensor, "*curve shift"]
    """Weight of the pairs."""


class Peak(NamedTuple):
    """What a curve says."""

    column: Int[Tensor, "*curve"]
    """That of the highest valid score."""
    frames: Float[Tensor, "*curve"]
    """Its shift in frames, refined by a parabola."""
    margin: Float[Tensor, "*curve"]
    """Height above the best shift further away than a neighbour; 0 where there is none."""
    height: Float[Tensor, "*curve"]
    """Height above the mean of those shifts, in their standard deviations."""
    at_edge: Bool[Tensor, "*curve"]
    """The peak is the first or last judged shift, or beside it: the true one may lie outside."""


def shift_scores(
    visual: Float[Tensor, "window dim"],
    audio: Float[Tensor, "window dim"],
    visual_weight: Float[Tensor, " window"],
    audio_weight: Float[Tensor, " window"],
    reach: int,
    score: Score,
) -> ShiftScores:
    """All shifts from ``-reach`` to ``reach`` by one matrix product over windows that are embedded once."""
    count = len(visual)
    place = torch.arange(count)[:, None] + torch.arange(-reach, reach + 1)  # [window, shift]
    exists = (place >= 0) & (place < count)
    place = place.clamp(0, max(count - 1, 0))
    scores = score(visual, audio).float().cpu().gather(1, place)
    weight = visual_weight.float().cpu()[:, None] * audio_weight.float().cpu()[place] * exists
    return ShiftScores(torch.where(weight > 0, scores, 0), weight)


def mean_curve(total: Float[Tensor, "*curve shift"], count: Float[Tensor, "*curve shift"]) -> Curve:
    """The curve of weighted sums over windows, and of the sums of weights."""
    valid = (count > 0) & (count >= LEAST_SHARE * count.amax(-1, keepdim=True))
    return Curve(torch.where(valid, total / count.clamp_min(1e-9), 0), valid, count)


def curve_of(scores: ShiftScores) -> Curve:
    """Mean over windows, by shift."""
    return mean_curve((scores.score * scores.weight).sum(0), scores.weight.sum(0))


def read_peak(curve: Curve) -> Peak:
    """The best shift, refined, and how far it stands out."""
    shifts = curve.score.shape[-1]
    open_score = curve.score.masked_fill(~curve.valid, -torch.inf)
    index = open_score.argmax(-1)
    top = curve.score.gather(-1, index[..., None])
    columns = torch.arange(shifts)
    rivals = curve.valid & ((columns - index[..., None]).abs() > NEIGHBOURS)
    many = rivals.sum(-1)
    best = curve.score.masked_fill(~rivals, -torch.inf).amax(-1)
    mean = (curve.score * rivals).sum(-1) / many.clamp_min(1)
    spread = (((curve.score - mean[..., None]) ** 2 * rivals).sum(-1) / many.clamp_min(1)).sqrt()
    margin = torch.where(many > 0, top[..., 0] - best, 0)
    height = torch.where(many > 0, (top[..., 0] - mean) / spread.clamp_min(1e-6), 0)
    first = torch.where(curve.valid, columns, shifts).amin(-1)
    last = torch.where(curve.valid, columns, -1).amax(-1)
    at_edge = (index <= first + NEIGHBOURS) | (index >= last - NEIGHBOURS)
    return Peak(index, index - shifts // 2 + _vertex(curve, index), margin, height.clamp_max(100.0), at_edge)


def _vertex(curve: Curve, index: Int[Tensor, "*curve"]) -> Float[Tensor, "*curve"]:
    """Where, within half a frame of the peak, a parabola through it and its two neighbours is highest."""
    shifts = curve.score.shape[-1]
    around = (index[..., None] + torch.tensor([-1, 0, 1])).clamp(0, shifts - 1)
    left, top, right = curve.score.gather(-1, around).unbind(-1)
    judged = curve.valid.gather(-1, around).all(-1) & (index > 0) & (index < shifts - 1)
    bend = left - 2 * top + right
    vertex = 0.5 * (left - right) / torch.where(bend < 0, bend, -1.0)
    return torch.where(judged & (bend < 0), vertex, 0).clamp(-0.5, 0.5)


class SecondPeak(NamedTuple):
    """The highest other hill of a curve: a periodic motion has one a period away."""

    frames: int
    """Its shift."""
    share: float
    """Its height above the mean of the curve as a share of the peak's."""


def second_peak(curve: Curve) -> SecondPeak | None:
    """The highest local maximum beyond the peak's neighbours; None where no other is above the mean of the curve."""
    score = curve.score.masked_fill(~curve.valid, -torch.inf)
    index, reach = int(score.argmax()), len(score) // 2
    beside = torch.cat([score.new_full((1,), -torch.inf), score, score.new_full((1,), -torch.inf)])
    hill = curve.valid & (score >= beside[:-2]) & (score >= beside[2:])
    hill &= (torch.arange(len(score)) - index).abs() > NEIGHBOURS
    if not hill.any():
        return None
    other = int(score.masked_fill(~hill, -torch.inf).argmax())
    mean = curve.score[curve.valid].mean()
    share = (score[other] - mean) / (score[index] - mean).clamp_min(1e-9)
    return SecondPeak(other - reach, float(share)) if share > 0 else None


def bootstrap_frames(scores: ShiftScores, window: int, seed: int = 0) -> Float[Tensor, " resample"] | None:
    """The refined shift of resampled curves; None where there are too few windows to resample.

    Windows that share frames aren't independent, so blocks of at least ``window`` of them are drawn as a whole
    (block bootstrap, Künsch 1989).
    """
    long = max(window, -(-len(scores.score) // BLOCKS))
    count = len(scores.score) // long
    if count < FEWEST_BLOCKS:
        return None
    used = count * long
    total = (scores.score * scores.weight)[:used].unflatten(0, (count, long)).sum(1)
    weight = scores.weight[:used].unflatten(0, (count, long)).sum(1)
    draw = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(RESAMPLES, count).scatter_add_(1, draw, torch.ones(RESAMPLES, count))
    curve = mean_curve(times @ total, times @ weight)
    frames = read_peak(curve).frames
    return frames[curve.valid.any(-1)]
