"""Pictures of what was hidden, what was predicted and what was true."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mmssl.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from mmssl.predictors.base import Batch, Predictor

COLUMNS = ("original", "perturbed", "predicted", "composite")
BESIDE_TRIVIAL = ("original", "perturbed", "trivial", "predicted")
"""Columns of a predictor that is compared with a guess without learning, picture by picture."""
TITLES = {
    "original": "original",
    "perturbed": "visible",
    "trivial": "without learning",
    "predicted": "predicted",
    "composite": "visible + predicted",
}
MEASURES = {"psnr": "{:.1f} dB", "ssim": "SSIM {:.3f}", "ab_error": "ab error {:.1f}"}
"""What predictors measure of each picture, and how it is written."""
MARGIN, HEADER, LINE = 6, 26, 16
SHORTEST_SIDE = 112
"""Pictures are enlarged by whole factors to at least this many pixels, so that small ones can be looked at."""
SIDE_OF_DETAIL = 160
"""Likewise where sharpness is to be judged and measures are written below."""


def draw_reveal(panels: Mapping[str, Tensor], caption: str, file: Path) -> Path:
    """Write :func:`reveal_sheet` as PNG."""
    if file.suffix.lower() != ".png":
        raise UserError(f"{file} is not named as a picture: give it the ending .png")
    file.parent.mkdir(parents=True, exist_ok=True)
    reveal_sheet(panels, caption).save(file)
    return file


def reveal_sheet(panels: Mapping[str, Tensor], caption: str) -> "Image.Image":
    """One row a sample, columns original, visible, predicted, visible + predicted; a picture that notebooks display.

    With a panel ``trivial``, columns original, visible, without learning, predicted, and below the last two the
    measures of each picture. ``panels`` is what :meth:`Predictor.reveal` returns: pictures ``[batch channel height
    width]`` on the scale 0..1, with 1 channel (grey), 3 (RGB), or any other number (the first three are shown as RGB,
    two as grey), and measures ``[batch]``. ``caption`` goes below.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = BESIDE_TRIVIAL if "trivial" in panels else COLUMNS
    pictures = {name: _displayable(panels[name]) for name in columns}
    below = {"trivial": _written(panels, "_trivial"), "predicted": _written(panels)} if "trivial" in panels else {}
    count, height, width, _ = pictures["original"].shape
    zoom = max(1, -(-(SIDE_OF_DETAIL if below else SHORTEST_SIDE) // min(height, width)))
    cell_h, cell_w = height * zoom, width * zoom
    row_h = cell_h + MARGIN + (LINE if any(map(any, below.values())) else 0)
    sheet_w = len(columns) * (cell_w + MARGIN) + MARGIN
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    lines = _wrap(caption, small, sheet_w - 2 * MARGIN)
    footer = LINE * len(lines) + MARGIN
    sheet = Image.new("RGB", (sheet_w, HEADER + count * row_h + footer), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        x = MARGIN + column * (cell_w + MARGIN)
        pen.text((x + cell_w // 2, HEADER // 2), TITLES[name], "black", font, anchor="mm")
        for row in range(count):
            cell = Image.fromarray(pictures[name][row]).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(cell, (x, HEADER + row * row_h))
            if name in below:
                place = (x + cell_w // 2, HEADER + row * row_h + cell_h + LINE // 2)
                pen.text(place, below[name][row], "#444444", small, anchor="mm")
    pen.multiline_text((MARGIN, sheet.height - footer), "\n".join(lines), "#444444", small, spacing=4)
    return sheet


def write_reveal(predictor: "Predictor", batch: "Batch", file: Path, step: int | None = None) -> Path:
    """Draw what ``predictor`` makes of ``batch``, with its own words about what the prediction was given."""
    return write_panels(predictor, predictor.reveal(batch), file, step)


def write_panels(predictor: "Predictor", panels: Mapping[str, Tensor], file: Path, step: int | None = None) -> Path:
    """Draw what ``predictor`` revealed."""
    share = panels["hidden"].mean().item()
    said = [] if step is None else [f"step {step}"]
    said += [f"{share:.0%} hidden"] if share < 1 else []
    said += mean_measures(panels)
    return draw_reveal(panels, " ".join([f"{part}." for part in said] + [predictor.reveal_note]), file)


def mean_measures(panels: Mapping[str, Tensor]) -> list[str]:
    """Each measure, averaged over the pictures, beside that of the guess without learning; in words."""
    return [
        f"{how.format(panels[name].mean().item())} on average, {how.format(panels[name + '_trivial'].mean().item())} "
        "without learning"
        for name, how in MEASURES.items()
        if name in panels
    ]


def _written(panels: Mapping[str, Tensor], suffix: str = "") -> list[str]:
    """All measures of each picture."""
    found = [(how, panels[name + suffix].tolist()) for name, how in MEASURES.items() if name + suffix in panels]
    return ["   ".join(how.format(values[row]) for how, values in found) for row in range(len(panels["original"]))]


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
