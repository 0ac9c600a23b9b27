"""Pictures of what was hidden, what was predicted and what was true."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mmssl.errors import UserError

if TYPE_CHECKING:
    from mmssl.predictors.base import Batch, Predictor

COLUMNS = ("original", "perturbed", "predicted", "composite")
TITLES = {"original": "original", "perturbed": "visible", "predicted": "predicted", "composite": "visible + predicted"}
MARGIN, HEADER, LINE = 6, 26, 16
SHORTEST_SIDE = 112
"""Pictures are enlarged by whole factors to at least this many pixels, so that small ones can be looked at."""


def draw_reveal(panels: Mapping[str, Float[Tensor, "batch channel height width"]], caption: str, file: Path) -> Path:
    """One row a sample, columns original, visible, predicted, visible + predicted; written as PNG.

    ``panels`` is what :meth:`Predictor.reveal` returns, on the scale 0..1, with 1 channel (grey), 3 (RGB), or any
    other number (the first three are shown as RGB, two as grey). ``caption`` goes below.
    """
    from PIL import Image, ImageDraw, ImageFont

    if file.suffix.lower() != ".png":
        raise UserError(f"{file} is not named as a picture: give it the ending .png")
    pictures = {name: _displayable(panels[name]) for name in COLUMNS}
    count, height, width, _ = pictures["original"].shape
    zoom = max(1, -(-SHORTEST_SIDE // min(height, width)))
    cell_h, cell_w = height * zoom, width * zoom
    sheet_w = len(COLUMNS) * (cell_w + MARGIN) + MARGIN
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    lines = _wrap(caption, small, sheet_w - 2 * MARGIN)
    footer = LINE * len(lines) + MARGIN
    sheet = Image.new("RGB", (sheet_w, HEADER + count * (cell_h + MARGIN) + footer), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS):
        x = MARGIN + column * (cell_w + MARGIN)
        pen.text((x + cell_w // 2, HEADER // 2), TITLES[name], "black", font, anchor="mm")
        for row in range(count):
            cell = Image.fromarray(pictures[name][row]).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(cell, (x, HEADER + row * (cell_h + MARGIN)))
    pen.multiline_text((MARGIN, sheet.height - footer), "\n".join(lines), "#444444", small, spacing=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    return file


def write_reveal(predictor: "Predictor", batch: "Batch", file: Path, step: int | None = None) -> Path:
    """Draw what ``predictor`` makes of ``batch``, with its own words about what the prediction was given."""
    panels = predictor.reveal(batch)
    share = panels["hidden"].mean().item()
    when = "" if step is None else f"step {step}. "
    return draw_reveal(panels, f"{when}{share:.0%} hidden. {predictor.reveal_note}", file)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _displayable(images: Float[Tensor, "batch channel height width"]) -> np.ndarray:
    array = images.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    if array.shape[-1] < 3:
        return np.repeat(array[..., :1], 3, -1)
    return np.ascontiguousarray(array[..., :3])
