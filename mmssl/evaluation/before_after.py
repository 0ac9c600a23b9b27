"""Before and after, side by side: what `mmssl restore` shows of a photo."""

from collections.abc import Mapping

from jaxtyping import Bool, Shaped, UInt8
from torch import Tensor

from mmssl.data.images.photo import from_pillow, to_pillow
from mmssl.evaluation.reveal import HEADER, MARGIN, SHORTEST_SIDE

Panels = Mapping[str, UInt8[Tensor, "_ height width"]]
"""Pictures of one size by title; with 1 channel or 3."""
WIDEST = 1600
"""Of the whole sheet, in pixels."""
SIDE = (WIDEST - 3 * MARGIN) // 2
"""The longest side of one of two panels."""
Window = tuple[slice, slice]


def before_after(panels: Panels) -> UInt8[Tensor, "3 sheet_height sheet_width"]:
    """A sheet with the panels beside each other under their titles.

    Panels that are too large are shrunk together, small ones enlarged by a whole factor.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = next(iter(panels.values())).shape[1:]
    side = (WIDEST - (len(panels) + 1) * MARGIN) // len(panels)
    zoom = max(1, min(-(-SHORTEST_SIDE // min(height, width)), side // max(height, width)))
    if max(height, width) > side:
        size = (max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width))))
        how = Image.Resampling.LANCZOS
    else:
        size, how = (width * zoom, height * zoom), Image.Resampling.NEAREST
    font = ImageFont.load_default(13)
    # a narrow picture still has room for its title
    cell = max(size[0], *(round(font.getlength(title)) for title in panels))
    sheet = Image.new("RGB", (len(panels) * (cell + MARGIN) + MARGIN, HEADER + size[1] + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (title, pixels) in enumerate(panels.items()):
        left = MARGIN + column * (cell + MARGIN)
        pen.text((left + cell // 2, HEADER // 2), title, "black", font, anchor="mm")
        sheet.paste(to_pillow(pixels).resize(size, how), (left + (cell - size[0]) // 2, HEADER))
    return from_pillow(sheet)


def centre_window(size: tuple[int, int], scale: int) -> Window:
    """The centre of a picture, as much as fills a panel when it is enlarged ``scale`` times and not shrunk again."""
    rows, columns = (_middle(0, length, max(1, SIDE // scale), length) for length in size)
    return rows, columns


def around(hidden: Bool[Tensor, "height width"]) -> Window:
    """The hole with as much around it as fills a panel, and at least half its own size on each side."""
    windows = []
    for axis, length in enumerate(hidden.shape):
        places = hidden.any(1 - axis).nonzero()[:, 0]
        first, end = int(places[0]), int(places[-1]) + 1
        windows.append(_middle(first, end, max(SIDE, 2 * (end - first)), length))
    return windows[0], windows[1]


def cut(picture: Shaped[Tensor, "channel height width"], window: Window, scale: int = 1) -> Tensor:
    """What is in the window, of a picture ``scale`` times larger than that which the window was chosen in."""
    rows, columns = (slice(part.start * scale, part.stop * scale) for part in window)
    return picture[:, rows, columns]


def _middle(first: int, end: int, wanted: int, length: int) -> slice:
    wanted = min(wanted, length)
    start = min(max((first + end - wanted) // 2, 0), length - wanted)
    return slice(start, start + wanted)
