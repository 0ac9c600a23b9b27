"""Spectrograms with hidden spans, and what was predicted there, as figures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmssl.evaluation.grid import figure_of_rows, title
from mmssl.evaluation.revealed_audio import NEAR_RANKS, Codes, Ranks, RevealedClip
from mmssl.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIT, NEAR, MISS = "#2e8b57", "#e6b422", "#c8553d"
"""Right, nearly right, wrong; the middle one is the brightest, so that they are told apart in grey too."""
HIDDEN = "#35c0d6"


def draw_clips(shown: Sequence[RevealedClip], caption: str = "", *, names: bool = True) -> "Figure":
    """A spectrogram a recording, its hidden spans marked, and below it what was predicted."""
    heights, gaps = [1.7, 0.65] * len(shown), [0.08, 0.5] * len(shown)
    figure, rows = figure_of_rows(heights, gaps, [10.75], left=1.1, above=0.6 if caption else 0.25)
    for number, clip in enumerate(shown):
        (above,), (below,) = rows[2 * number : 2 * number + 2]
        _draw_spectrogram(above, clip)
        if names:
            above.set_title(printable(clip.clip.name), loc="left", fontsize=9, parse_math=False)
        draw = _draw_codes if isinstance(clip.found, Codes) else _draw_ranks
        draw(below, clip, clip.found)  # pyright: ignore[reportArgumentType]
        below.set_xlim(0, clip.seconds)
        below.set_xlabel("seconds" if number == len(shown) - 1 else "", fontsize=8)
        below.tick_params(labelsize=8)
    if caption:
        title(figure, caption)
    return figure


def _draw_spectrogram(axes: "Axes", clip: RevealedClip) -> None:
    """Quiet is dark. Hidden spans are veiled, and marked along the top."""
    low, high = np.quantile(clip.mel, [0.02, 0.998]) if clip.mel.size else (0.0, 1.0)
    axes.imshow(
        clip.mel.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=max(high, low + 1e-3),
        extent=(0, clip.seconds, 0, clip.mel.shape[1]), interpolation="nearest",
    )  # fmt: skip
    top = clip.mel.shape[1]
    for start, stop in clip.spans():
        axes.axvspan(start, stop, color=HIDDEN, alpha=0.28, linewidth=0)
        axes.plot([start, stop], [top, top], color=HIDDEN, linewidth=5, solid_capstyle="butt", clip_on=False)
    axes.set_xlim(0, clip.seconds)
    axes.set_ylim(0, top)
    axes.set_ylabel("mel bin", fontsize=8)
    axes.tick_params(labelsize=8, labelbottom=False)


def _draw_codes(axes: "Axes", clip: RevealedClip, codes: Codes) -> None:
    """Codes of the first codebook as colours, true above predicted; below, how many codebooks were right."""
    from matplotlib.colors import to_rgb

    right = (codes.target == codes.predicted).mean(1)
    picture = np.ones((3, len(clip.hidden), 3))
    for step in np.flatnonzero(clip.hidden):
        picture[0, step] = _colour(int(codes.target[step, 0]))
        picture[1, step] = _colour(int(codes.predicted[step, 0]))
        share = right[step]
        picture[2, step] = (1 - share) * np.array(to_rgb("#e8e4de")) + share * np.array(to_rgb(HIT))
    end = clip.begin + clip.step * len(clip.hidden)
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=(clip.begin, end, 3, 0))
    axes.set_yticks([0.5, 1.5, 2.5], ["true code", "predicted", "codebooks right"])
    axes.tick_params(axis="y", length=0)
    for line in (1, 2):
        axes.axhline(line, color="white", linewidth=2)


def _colour(code: int) -> tuple[float, float, float]:
    """A colour a code, far from those of neighbouring numbers (steps of the golden angle)."""
    from matplotlib.colors import hsv_to_rgb

    red, green, blue = hsv_to_rgb(
        [code * 0.618034 % 1, 0.45 + 0.4 * (code * 0.7549 % 1), 0.6 + 0.35 * (code * 0.5698 % 1)]
    )
    return float(red), float(green), float(blue)


def _draw_ranks(axes: "Axes", clip: RevealedClip, ranks: Ranks) -> None:
    """A bar a hidden step: how similar prediction and true code are; its colour, how many negatives came before."""
    steps = np.flatnonzero(ranks.rank >= 0)
    colours = [HIT if rank == 0 else NEAR if rank <= NEAR_RANKS else MISS for rank in ranks.rank[steps]]
    axes.bar(
        clip.begin + clip.step * (steps + 0.5), ranks.similarity[steps], width=clip.step, color=colours, linewidth=0
    )
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.set_ylim(min(-0.25, float(ranks.similarity.min(initial=0))), 1)
    axes.set_ylabel("cosine", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
