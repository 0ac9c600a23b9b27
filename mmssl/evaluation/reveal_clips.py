"""Pictures of what predictors of clips make of them: agreement of moments, and what was hidden of both senses."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmssl.errors import UserError
from mmssl.evaluation.grid import figure_of_rows, title
from mmssl.evaluation.spectrogram import HIT, MISS
from mmssl.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmssl.predictors.audio_visual import AudioVisualPredictor
    from mmssl.predictors.base import Batch

STILLS = 6
"""Frames of a clip in a picture."""


def write_clip_picture(
    predictor: "AudioVisualPredictor", batch: "Batch", names: Sequence[str], caption: str, file: Path
) -> Path:
    """Draw what ``predictor`` makes of the clips of a batch. Raises UserError for a file that is no PNG."""
    if file.suffix.lower() != ".png":
        raise UserError(f"{file} is not named as a picture: give it the ending .png")
    panels = {name: values.detach().float().cpu().numpy() for name, values in predictor.reveal(batch).items()}
    draw = draw_agreement if "similarity" in panels else draw_hidden
    figure = draw(panels, names, float(predictor.clip.fps))
    words = f"{caption}. {summary(panels)} {predictor.reveal_note}".strip()
    title(figure, words)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file


def summary(panels: dict[str, np.ndarray]) -> str:
    """What the panels come to, in a sentence."""
    if "similarity" not in panels:
        return f"{panels['hidden'].mean():.0%} of sight and {panels['sound_hidden'].mean():.0%} of sound hidden."
    judged = panels["pairs"] > 0
    known = judged.any(1)
    if not known.any():
        return "Nothing moves or sounds in these clips, so nothing is judged."
    best = np.where(judged, panels["curve"], -np.inf).argmax(1) - panels["curve"].shape[1] // 2
    right = np.abs(best[known]) <= 1
    return f"Best shift right to within a frame in {right.sum()} of {len(right)} clips."


def draw_agreement(panels: dict[str, np.ndarray], names: Sequence[str], fps: float) -> "Figure":
    """A row a clip: a frame, agreement of every moment seen with every moment heard, and its mean by shift.

    On the diagonal is what belongs together. Moments in which nothing moves or sounds are veiled.
    """
    count = len(names)
    figure, axes = figure_of_rows([2.3] * count, [0.7] * count, [2.5, 2.5, 6.0], 0.8)
    reach = panels["curve"].shape[1] // 2
    shifts = np.arange(-reach, reach + 1)
    for row, name in enumerate(names):
        still, matrix, curve = axes[row]
        _show(still, panels["original"][row, panels["original"].shape[1] // 2] / 255)
        still.set_title(printable(name), loc="left", fontsize=9, parse_math=False)
        score = panels["similarity"][row]
        pair = panels["visual_weight"][row][:, None] * panels["audio_weight"][row][None]
        seconds = len(score) / fps
        matrix.imshow(
            score, cmap="magma", alpha=0.25 + 0.75 * pair, interpolation="nearest", extent=(0, seconds, seconds, 0)
        )
        matrix.set_xlabel("moment heard, s", fontsize=8)
        matrix.set_ylabel("moment seen, s", fontsize=8)
        judged = panels["pairs"][row] > 0
        best = int(np.where(judged, panels["curve"][row], -np.inf).argmax()) - reach if judged.any() else None
        values = np.where(judged, panels["curve"][row], np.nan)
        curve.plot(1000 * shifts / fps, values, color="#555555", marker=".", linewidth=1.2)
        curve.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
        if best is not None:
            colour = HIT if abs(best) <= 1 else MISS
            curve.plot(1000 * best / fps, values[best + reach], "o", color=colour, markersize=8)
        curve.set_xlabel("sound taken from so much later, ms", fontsize=8)
        curve.set_ylabel("mean agreement", fontsize=8)
        for part in (matrix, curve):
            part.tick_params(labelsize=8)
    return figure


def draw_hidden(panels: dict[str, np.ndarray], names: Sequence[str], fps: float) -> "Figure":
    """Four rows a clip: original, visible, predicted from both senses, predicted from the other sense alone."""
    rows = (
        ("original", "original", "sound_original"),
        ("visible", "perturbed", "sound_perturbed"),
        ("predicted from both", "predicted", "sound_predicted"),
        ("from the other sense alone", "predicted_from_sound", "sound_predicted_from_sight"),
    )
    count = len(names)
    gaps = [*[0.28] * (len(rows) - 1), 0.5] * count
    figure, axes = figure_of_rows([1.25] * len(gaps), gaps, [8.2, 4.3], 0.2)
    for clip, name in enumerate(names):
        frames = panels["original"].shape[1]
        shown = np.linspace(0, frames - 1, STILLS).round().astype(int)
        low, high = np.quantile(panels["sound_original"][clip], [0.02, 0.998])
        for place, (what, pictures, sound) in enumerate(rows):
            stills, sounds = axes[len(rows) * clip + place]
            _show(stills, _side_by_side(panels[pictures][clip, shown]))
            words = f"{printable(name)}: {what}" if place == 0 else what
            stills.set_title(words, loc="left", fontsize=9, parse_math=False)
            mel = panels[sound][clip]
            sounds.imshow(
                mel.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=max(high, low + 1e-3),
                interpolation="nearest", extent=(0, frames / fps, 0, mel.shape[1]),
            )  # fmt: skip
            sounds.tick_params(labelsize=7, labelbottom=place == len(rows) - 1)
            sounds.set_yticks([])
    return figure


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    """Pictures ``[picture, channel, height, width]`` as one, with white between them."""
    gap = np.ones((*pictures.shape[1:3], max(1, pictures.shape[3] // 16)), pictures.dtype)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=2)


def _show(axes: Any, picture: np.ndarray) -> None:
    """A picture ``[channel, height, width]`` on the scale 0..1."""
    image = np.moveaxis(picture, 0, 2)
    axes.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_anchor("W")
    axes.axis("off")


def to_batch(clips: Sequence[dict[str, Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Clips of equal length as one batch of epoch 0."""
    names = ("video", "audio")
    batch = {name: torch.stack([torch.as_tensor(clip[name]) for clip in clips]) for name in names}
    number = torch.arange(len(clips))
    batch |= {"id": number, "clip": number, "epoch": torch.zeros_like(number)}
    return {name: values.to(device) for name, values in batch.items()}
