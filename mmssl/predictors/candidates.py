"""Which windows a window is told from: shifts of the same clip, other clips, and the order in which they come."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEAREST = 2
"""Frames. A window one frame away is not called wrong: sound and picture share four of their five frames."""


def lags(windows: int, device: torch.device) -> Int[Tensor, "window window"]:
    """How many frames the second of two windows comes after the first."""
    place = torch.arange(windows, device=device)
    return place - place[:, None]


def shift_candidates(
    lag: Int[Tensor, "window other"], nearest: Float[Tensor, ""] | int = NEAREST
) -> Bool[Tensor, "window other"]:
    """True for the window itself and for those at least ``nearest`` frames away."""
    return (lag == 0) | (lag.abs() >= nearest)


def clip_candidates(clip: Int[Tensor, " batch"], others: Int[Tensor, " other"]) -> Bool[Tensor, "batch other"]:
    """True for those of the ``others`` that are clips of another file."""
    return clip[:, None] != others


def curriculum(updates: Float[Tensor, ""], steps: int, windows: int) -> tuple[Float[Tensor, ""], Bool[Tensor, ""]]:
    """``(nearest, shifts)`` after so many training batches of a curriculum over ``steps`` of them.

    In the first third other clips alone are wrong answers (``shifts`` is False); then far shifts join them, and ever
    nearer ones, down to 2 frames. A curriculum of 0 steps is over before it begins.
    """
    share = (updates / max(steps, 1)).clamp(0, 1) if steps else torch.ones_like(updates)
    far = max(windows // 2, NEAREST)
    nearest = far + (NEAREST - far) * ((share - 1 / 3) / (2 / 3)).clamp(0, 1)
    return nearest.round(), share >= 1 / 3


def shift_hits(
    score: Float[Tensor, "batch window window"], lag: Int[Tensor, "window window"], reach: int
) -> tuple[Float[Tensor, "batch window"], Float[Tensor, " window"]]:
    """``(hit, chance)``: whether the best of the shifts up to ``reach`` is right to within a frame, and how often
    guessing would be. Near the ends there are fewer shifts, and chance is better: only those that exist count."""
    inside = lag.abs() <= reach
    best = score.masked_fill(~inside, -torch.inf).argmax(2)
    own = torch.arange(len(lag), device=lag.device)
    chance = (lag.abs() <= 1).sum(1) / inside.sum(1)
    return ((best - own).abs() <= 1).float(), chance


def draw_one(
    allowed: Bool[Tensor, "batch window other"], noise: Float[Tensor, "batch window other"]
) -> Int[Tensor, "batch window"]:
    """One of the allowed ones for each window, all equally likely."""
    return noise.masked_fill(~allowed, -1.0).argmax(2)


def shift_curve(
    score: Float[Tensor, "batch window window"], weight: Float[Tensor, "batch window window"], reach: int
) -> tuple[Float[Tensor, "batch shift"], Float[Tensor, "batch shift"]]:
    """``(mean, count)`` over the pairs that exist at each shift -reach ... reach: window t with window t + shift.

    Nothing is padded: a shift is judged by its own pairs, weighted; without any its mean is 0.
    """
    windows = score.shape[1]
    place = torch.arange(windows, device=score.device)[:, None] + torch.arange(-reach, reach + 1, device=score.device)
    exists = (place >= 0) & (place < windows)
    index = place.clamp(0, windows - 1).expand(len(score), -1, -1)
    counted = weight.gather(2, index) * exists
    count = counted.sum(1)
    return (score.gather(2, index) * counted).sum(1) / count.clamp_min(1e-9), count
