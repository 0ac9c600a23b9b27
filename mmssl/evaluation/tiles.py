"""A network of one size applied to a picture of any size: overlapping tiles, blended so that no seam is seen.

Near the edge of a tile a network lacks the surroundings that its neighbour has, so there the neighbour counts: of an
overlap of ``v`` pixels the outer quarter on either side is not used at all, and weights cross over smoothly in the half
between. A network that looks at most ``v // 4`` pixels far thus gives what it gives on the whole picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError

Place = tuple[slice, slice]
"""Rows and columns of a tile."""

BATCH = 8
"""Tiles predicted together."""


def tile_weights(length: int, tile: int, overlap: int) -> tuple[list[int], Float[Tensor, "tiles tile"]]:
    """Where tiles start along one axis, evenly, and how much each counts; weights add up to 1 at every pixel.

    Args:
        length: of the axis in pixels.
        tile: of a tile; at most ``length``.
        overlap: the least overlap of neighbours, less than ``tile``.
    """
    count = 1 + math.ceil((length - tile) / (tile - overlap))
    starts = [round(index * (length - tile) / max(count - 1, 1)) for index in range(count)]
    unused = overlap // 4
    # raised cosine over what is left of the overlap: its slope is continuous, so no edge shows
    position = (torch.arange(tile, dtype=torch.float64) + 0.5 - unused) / max(overlap - 2 * unused, 1)
    rise = torch.sin(position.clamp(0, 1) * math.pi / 2).square()
    weights = torch.ones(count, tile, dtype=torch.float64)
    weights[1:] *= rise
    weights[:-1] *= rise.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + tile]
    return starts, weights.float()


def blend_tiles(
    predict: Callable[[Sequence[Place]], Float[Tensor, "tile channel height width"]],
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: int,
    *,
    scale: int = 1,
    needed: Bool[Tensor, "height width"] | None = None,
    batch: int = BATCH,
) -> Iterator[tuple[int, Float[Tensor, "channel rows width"]]]:
    """Predict a picture tile by tile; yields strips of finished rows from the top, as (first row, strip).

    No more than one row of tiles is held at a time.

    Args:
        predict: from places in the picture to what is there, ``scale`` times as large.
        size: of the picture.
        tile: the largest tile; a picture that is smaller is one tile.
        overlap: of neighbouring tiles in pixels.
        scale: how much larger the result is.
        needed: tiles without any such pixel are left out; what is not needed is undefined in the result.
        batch: tiles for one call of ``predict``.
    """
    height, width = size
    tile_h, tile_w = min(tile[0], height), min(tile[1], width)
    tops, down = tile_weights(height, tile_h, min(overlap, tile_h - 1))
    lefts, across = tile_weights(width, tile_w, min(overlap, tile_w - 1))
    down, across = (weight.repeat_interleave(scale, dim=1) for weight in (down, across))
    strip: Tensor | None = None
    done = 0
    for row, top in enumerate(tops):
        rows = slice(top, top + tile_h)
        places = [(rows, slice(left, left + tile_w)) for left in lefts]
        columns = [i for i, place in enumerate(places) if needed is None or bool(needed[place].any())]
        for chosen in (columns[first : first + batch] for first in range(0, len(columns), batch)):
            predicted = predict([places[column] for column in chosen]).float().cpu()
            if strip is None:
                strip = torch.zeros(predicted.shape[1], tile_h * scale, width * scale)
            for column, values in zip(chosen, predicted, strict=True):
                left = lefts[column] * scale
                strip[..., left : left + tile_w * scale] += values * torch.outer(down[row], across[column])
        following = tops[row + 1] if row + 1 < len(tops) else height
        finished = (following - top) * scale
        if strip is not None:
            yield done, strip[:, :finished]
            # what the next row of tiles adds to moves up
            strip = torch.cat((strip[:, finished:], torch.zeros_like(strip[:, :finished])), dim=1)
        done += finished


def apply_tiled(
    function: Callable[[Float[Tensor, "tile channel height width"]], Float[Tensor, "tile channel2 height2 width2"]],
    pixels: UInt8[Tensor, "channel height width"],
    tile: tuple[int, int],
    overlap: int,
    *,
    scale: int = 1,
    device: torch.device | str = "cpu",
) -> UInt8[Tensor, "channel2 height2 width2"]:
    """``function`` (pictures on the scale 0..1, the result ``scale`` times as large) applied to a picture of any size.

    Beside the picture and the result, both of bytes, memory holds one row of tiles.
    """

    def predict(places: Sequence[Place]) -> Tensor:
        return function(torch.stack([to_unit(pixels[:, rows, columns], device) for rows, columns in places]))

    height, width = pixels.shape[1:]
    result: Tensor | None = None
    for top, strip in blend_tiles(predict, (height, width), tile, overlap, scale=scale):
        if result is None:
            result = torch.empty(strip.shape[0], height * scale, width * scale, dtype=torch.uint8)
        result[:, top : top + strip.shape[1]] = to_bytes(strip)
    assert result is not None  # a picture has at least one tile
    return result


def to_unit(
    pixels: UInt8[Tensor, "channel height width"], device: torch.device | str = "cpu"
) -> Float[Tensor, "channel height width"]:
    """Bytes to the scale 0..1."""
    return pixels.to(device).float() / 255


def to_bytes(values: Float[Tensor, "channel height width"]) -> UInt8[Tensor, "channel height width"]:
    """Inverse of :func:`to_unit`: rounded, what is beyond the scale clipped."""
    return values.clamp(0, 1).mul(255).round().to("cpu", torch.uint8)


def strips(length: int, rows: int) -> Iterator[slice]:
    """All rows, so many at a time: for what needs floating point but not all of it at once."""
    for top in range(0, length, rows):
        yield slice(top, min(top + rows, length))


def bicubic_matrix(length: int, wanted: int) -> Float[Tensor, "wanted length"]:
    """Bicubic enlargement of one axis, torch's own, as a matrix: of which any rows can be applied by themselves."""
    return F.interpolate(torch.eye(length)[None, None], size=(wanted, length), mode="bicubic")[0, 0]


def check_tiling(tile: tuple[int, int], overlap: int) -> None:
    """Raises UserError where tiles would not advance."""
    if min(tile) < 1:
        raise UserError(f"--tile must be at least 1, got {min(tile)}")
    if not 0 <= overlap <= min(tile) // 2:
        raise UserError(f"--overlap must lie between 0 and half the tile ({min(tile) // 2}), got {overlap}")
