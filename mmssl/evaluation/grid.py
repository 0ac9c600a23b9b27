"""Figures of rows of axes at given places."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_of_rows(
    heights: Sequence[float],
    gaps: Sequence[float],
    widths: Sequence[float],
    gap: float = 0.0,
    *,
    left: float = 0.15,
    above: float = 0.6,
    below: float = 0.5,
) -> "tuple[Figure, list[list[Any]]]":
    """A figure and its axes, row by row; everything in inches.

    A run draws a picture at each validation, so axes are placed, not fitted to their labels: that
    (``layout="constrained"``) takes as long as all the drawing.

    Args:
        heights: of the rows, from top to bottom.
        gaps: below each row, that of the last one without effect: what is below it is ``below``.
        widths: of the axes in a row.
        gap: between two of them.
        left: before the first.
        above: over the first row.
        below: under the last row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = left + sum(widths) + gap * (len(widths) - 1) + 0.15
    height = above + sum(heights) + sum(gaps[: len(heights) - 1]) + below
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    places = [left + sum(widths[:column]) + gap * column for column in range(len(widths))]
    rows, top = [], height - above
    for tall, space in zip(heights, gaps, strict=True):
        rows.append(
            [figure.add_axes((x / width, (top - tall) / height, wide / width, tall / height))
             for x, wide in zip(places, widths, strict=True)]
        )  # fmt: skip
        top -= tall + space
    return figure, rows


def title(figure: "Figure", words: str) -> None:
    """Words in the upper left corner; they are no formula."""
    height = figure.get_figheight()
    figure.suptitle(words, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=10, parse_math=False)
