"""Holes of any size in pictures of any size, filled from coarse to fine.

A network that was trained on tiles knows nothing to say about a pixel whose whole tile is hidden. So the middle of a
large hole is filled on a smaller picture first, where it is small enough, and enlarged; with it as known pixels, the
rest is predicted in the finer picture. The picture is halved as often as that needs.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.evaluation.tiles import Place, blend_tiles, strips, to_bytes, to_unit

Fill = Callable[
    [Float[Tensor, "tile channel height width"], Bool[Tensor, "tile 1 height width"]],
    Float[Tensor, "tile channel height width"],
]
REACH = 4
"""A hidden pixel is predicted where a known one is at most 1/REACH of the tile away."""
_ROWS = 512
"""Even, so that strips are halved as the whole is."""


def fill_holes(
    function: Fill,
    pixels: UInt8[Tensor, "channel height width"],
    hidden: Bool[Tensor, "height width"],
    tile: tuple[int, int],
    overlap: int,
    *,
    device: torch.device | str = "cpu",
) -> UInt8[Tensor, "channel height width"]:
    """The picture with hidden pixels predicted; all others are as they were.

    Args:
        function: predicts pictures (scale 0..1, hidden pixels grey) where they are hidden.
        pixels: of the picture; what is hidden has no influence.
        hidden: the hole; not everything.
        tile: height and width of what ``function`` sees at once.
        overlap: of neighbouring tiles.
        device: of ``function``.
    """
    filled, near = pixels.clone(), hidden
    if hidden.shape[0] > tile[0] or hidden.shape[1] > tile[1]:
        far = far_from_known(hidden, max(1, min(tile) // REACH))
        if far.any():
            coarse = fill_holes(function, *halve(pixels, hidden), tile, overlap, device=device)
            _put_enlarged(filled, coarse, far)
            near = hidden & ~far
    # the border of the window is no border of the picture: keep it away from what is predicted
    window = tuple(
        _grown(bounds, max(1, side // REACH), side, length)
        for bounds, side, length in zip(_bounds(near), tile, near.shape, strict=True)
    )
    shown, gone = filled[:, *window], near[window]

    def predict(places: Sequence[Place]) -> Tensor:
        masks = torch.stack([gone[place] for place in places])[:, None].to(device)
        images = torch.stack([to_unit(shown[:, *place], device) for place in places])
        return function(images.masked_fill(masks, 0.5), masks)

    for top, strip in blend_tiles(predict, (gone.shape[0], gone.shape[1]), tile, overlap, needed=gone):
        rows = slice(top, top + strip.shape[1])
        shown[:, rows] = torch.where(gone[rows], to_bytes(strip), shown[:, rows])
    return filled


def far_from_known(hidden: Bool[Tensor, "height width"], reach: int) -> Bool[Tensor, "height width"]:
    """Hidden pixels with no known pixel at most ``reach`` rows and columns away."""
    far = torch.zeros_like(hidden)
    rows, columns = (
        _grown(bounds, reach, 1, length) for bounds, length in zip(_bounds(hidden), hidden.shape, strict=True)
    )
    for part in strips(rows.stop - rows.start, _ROWS):
        top, bottom = rows.start + part.start, rows.start + part.stop
        halo = slice(max(top - reach, 0), bottom + reach)
        known = (~hidden[halo, columns]).to(torch.uint8)[None]
        for kernel, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
            known = F.max_pool2d(known, kernel, 1, padding)
        far[top:bottom, columns] = known[0, top - halo.start :][: bottom - top] == 0
    return far


def halve(
    pixels: UInt8[Tensor, "channel height width"], hidden: Bool[Tensor, "height width"]
) -> tuple[UInt8[Tensor, "channel half_height half_width"], Bool[Tensor, "half_height half_width"]]:
    """Half the size, rounded up: means of the known pixels of 2x2; hidden where none is known."""
    height, width = hidden.shape
    half = -(-height // 2), -(-width // 2)
    small = torch.empty(pixels.shape[0], *half, dtype=torch.uint8)
    gone = torch.empty(half, dtype=torch.bool)
    for rows in strips(height, _ROWS):
        to = slice(rows.start // 2, -(-rows.stop // 2))
        known = (~hidden[None, rows]).float()
        weight, total = (
            F.avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)
            for values in (known, to_unit(pixels[:, rows]) * known)
        )
        small[:, to], gone[to] = to_bytes(total / weight.clamp(min=0.25)), weight[0] == 0
    return small, gone


def _put_enlarged(
    filled: UInt8[Tensor, "channel height width"],
    coarse: UInt8[Tensor, "channel half_height half_width"],
    where: Bool[Tensor, "height width"],
) -> None:
    """Write the bicubically doubled ``coarse`` where asked, in place; a strip sees two rows beyond it, as it needs."""
    height, width = where.shape
    for rows in strips(height, _ROWS):
        if not where[rows].any():
            continue
        first = max(rows.start // 2 - 2, 0)
        part = to_unit(coarse[:, first : -(-rows.stop // 2) + 2])
        doubled = F.interpolate(part[None], scale_factor=2, mode="bicubic")[0]
        doubled = to_bytes(doubled[:, rows.start - 2 * first :][:, : rows.stop - rows.start, :width])
        filled[:, rows] = torch.where(where[rows], doubled, filled[:, rows])


def _bounds(hidden: Bool[Tensor, "height width"]) -> tuple[slice, slice]:
    """The rows and the columns from the first hidden pixel to the last."""
    found = (hidden.any(1 - axis).nonzero()[:, 0] for axis in (0, 1))
    rows, columns = (slice(int(places[0]), int(places[-1]) + 1) for places in found)
    return rows, columns


def _grown(bounds: slice, margin: int, least: int, length: int) -> slice:
    """The bounds with a margin, and at least so long and centred, as far as ``length`` allows."""
    spare = max(margin, -(-(least - (bounds.stop - bounds.start)) // 2))
    size = min(bounds.stop - bounds.start + 2 * spare, length)
    start = min(max(bounds.start - spare, 0), length - size)
    return slice(start, start + size)
