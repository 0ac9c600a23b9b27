"""Holes in pictures, on the grid of their pixels: the centre, rectangles, strokes of a brush.

The samplers of patches (:data:`mmssl.masking.SAMPLERS`) decide a few hundred cells and may scatter the last of them;
these decide a hundred thousand pixels and must leave no crumbs. So a hole is *drawn*: each pixel gets the time at which
something first covers it, and what was there when exactly ``hidden_count(height * width, mask_fraction)`` pixels were
covered is the hole. The last dab or rectangle grows from its middle until the count is met, which makes it smaller, or
larger in the rare picture for which there are too few of them.

As in :mod:`mmssl.masking.blocks` only integers and correctly rounded float operations decide.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped, UInt8
from torch import Tensor
from torch._compile import _disable_dynamo

from mmssl.masking.choice import grid_shape
from mmssl.masking.noise import NoiseKey
from mmssl.masking.theory import hidden_count

STREAM_HOLE_BLOCKS = 0x6D61736B40
STREAM_STROKES = 0x6D61736B41
STREAM_SEGMENTS = 0x6D61736B42

# The area of a rectangle, as shares of the whole hole, and height : width at most.
_BLOCK_SHARES = (1 / 8, 1 / 2)
_BLOCK_ASPECT = 2.0
_TABLE_STEPS = 4096

# Of the released code of free-form holes, for pictures of 256 x 256: see free_form_hole.
_SEGMENTS = (4, 11)
_MEAN_TURN, _TURN_RANGE = 2 * math.pi / 5, 2 * math.pi / 15
_BRUSH_WIDTHS = (12 / 256, 40 / 256)


def centre_hole(key: NoiseKey, size: tuple[int, int], mask_fraction: float) -> Bool[Tensor, "batch pixel"]:
    """Hide the rectangle in the middle that has the picture's aspect; 0.25 hides half the height and half the width.

    Pathak et al. 2016, "Context Encoders" (arXiv 1604.07379), section 3.3. The same in every picture: ``key`` says how
    many there are. The number of hidden pixels is the nearest to the fraction that whole rows and columns allow.

    Args:
        size: (height, width) in pixels.

    Raises:
        UserError: for a fraction or a size out of range.
    """
    height, width = grid_shape(size, (2,), "centre_hole")
    count = hidden_count(height * width, mask_fraction)
    rows = max(1, round(height * math.sqrt(mask_fraction)))
    columns = min(width, max(1, round(count / rows)))
    if rows * columns == height * width:  # a margin on the longer axis stays
        rows, columns = (rows - 1, columns) if height >= width else (rows, columns - 1)
    hidden = torch.zeros(height, width, dtype=torch.bool, device=key.device)
    top, left = (height - rows) // 2, (width - columns) // 2
    hidden[top : top + rows, left : left + columns] = True
    return hidden.flatten().repeat(len(key), 1)


def block_holes(key: NoiseKey, size: tuple[int, int], mask_fraction: float) -> Bool[Tensor, "batch pixel"]:
    """Hide random rectangles, exactly ``hidden_count(height * width, mask_fraction)`` pixels of them.

    The random blocks of Pathak et al. 2016 (arXiv 1604.07379), section 3.3: "a number of smaller possibly overlapping
    masks, covering up to 1/4 of the image". Here a rectangle has an eighth to a half of the hole's area, uniformly, its
    height : width lies between 1/2 and 2 on a logarithmic scale, and its middle is anywhere in the picture, at whose
    edges it is cut: so edges and corners are hidden often enough to be learned.

    Args:
        size: (height, width) in pixels.

    Raises:
        UserError: for a fraction or a size out of range.
    """
    height, width = grid_shape(size, (2,), "block_holes")
    count = hidden_count(height * width, mask_fraction)
    blocks = _block_limit(mask_fraction)
    area, aspect, down, across = key.uniform(4 * blocks, STREAM_HOLE_BLOCKS).unflatten(1, (blocks, 4)).unbind(2)
    area = count * (_BLOCK_SHARES[0] + area * (_BLOCK_SHARES[1] - _BLOCK_SHARES[0]))
    aspect = _aspect_table(key.device)[(aspect * _TABLE_STEPS).to(torch.int64)]
    rows, columns = (area * aspect).sqrt().round().clamp_min(1), (area / aspect).sqrt().round().clamp_min(1)
    row, column = (down * height).floor(), (across * width).floor()
    in_rows, in_columns = _number_within(row, rows, height), _number_within(column, columns, width)
    time = torch.full((len(key), height, width), blocks, dtype=torch.uint8, device=key.device)
    covered = torch.empty_like(time)
    for block in range(blocks):
        torch.maximum(in_rows[:, block, :, None], in_columns[:, block, None, :], out=covered)
        torch.minimum(time, covered, out=time)
    time = time.flatten(1)
    last = _reached(time, count, blocks)
    row, column, rows, columns = (
        values.gather(1, last.clamp_max(blocks - 1)).unsqueeze(2) for values in (row, column, rows, columns)
    )
    down, across = _offsets(row, column, size)
    # by which ring around the middle a rectangle of this aspect comes to a pixel
    ring = torch.maximum(down / rows, across / columns) * torch.maximum(rows, columns)
    return _earliest(time, last, ring, count, size)


# in a compiled model too this runs as it is: its many steps take long to trace, and their writing in place cuts the
# graph six times over (torch.compiler.disable does the same, but imports the compiler at once)
@_disable_dynamo
def free_form_holes(key: NoiseKey, size: tuple[int, int], mask_fraction: float) -> Bool[Tensor, "batch pixel"]:
    """Hide strokes of a brush, exactly ``hidden_count(height * width, mask_fraction)`` pixels of them.

    Yu et al. 2019, "Free-Form Image Inpainting with Gated Convolution" (arXiv 1806.03589), appendix, with the numbers
    of the released code: a stroke is a zigzag of 4 to 11 segments from a random place, which turns right and left in
    turn by 2 pi / 5, give or take up to 2 pi / 15; a segment is an eighth of the diagonal long on average and at most a
    quarter, and ends at the picture's edge; the brush is as wide as 12 to 40 pixels are in 256. What differs: strokes
    are drawn until the fraction is reached instead of one to three; a zigzag runs in any direction instead of along the
    rows; lengths have a triangular law in place of a clipped normal one; the brush is an octagon.

    Args:
        size: (height, width) in pixels.

    Raises:
        UserError: for a fraction or a size out of range.
    """
    height, width = grid_shape(size, (2,), "free_form_holes")
    count = hidden_count(height * width, mask_fraction)
    thinnest, thickest = (max(0, round((share * math.sqrt(height * width) - 1) / 2)) for share in _BRUSH_WIDTHS)
    longest = math.hypot(height, width) / 4
    # dabs this close to each other leave no dents in the edge of a stroke
    dabs = math.ceil(longest / max(1, thinnest))
    pixel, radius = _dabs(key, size, longest, (thinnest, thickest), _stroke_limit(mask_fraction), dabs)
    end = pixel.shape[1]

    # for each radius and pixel the first dab of this radius that is centred there
    layers = thickest - thinnest + 1
    number = torch.arange(end, dtype=torch.int16 if end < 1 << 15 else torch.int32, device=key.device)
    first = torch.full((len(key), layers * height * width), end, dtype=number.dtype, device=key.device)
    first.scatter_reduce_(1, (radius - thinnest) * (height * width) + pixel, number.expand_as(pixel), "amin")
    first = first.view(len(key), layers, height, width)
    time = first[:, -1]
    for step in range(thickest, 0, -1):
        # every dab in hand grows by one pixel, so that those of each radius grow as often as it says
        time = _grown(time, corners=(step * 5 + 6) // 12 != (step * 5 + 1) // 12)
        if step > thinnest:
            time = torch.minimum(time, first[:, step - 1 - thinnest])
    time = time.flatten(1)
    last = _reached(time, count, end)
    middle = pixel.gather(1, last.clamp_max(end - 1))
    down, across = _offsets((middle // width).unsqueeze(2), (middle % width).unsqueeze(2), size)
    return _earliest(time, last, (down * down + across * across).to(torch.float32).sqrt(), count, size)


def _dabs(
    key: NoiseKey, size: tuple[int, int], longest: float, radii: tuple[int, int], strokes: int, dabs: int
) -> tuple[Int[Tensor, "batch dab"], Int[Tensor, "batch dab"]]:
    """Pixel and radius of each dab of the brush, in the order of drawing: ``dabs`` for each of 11 segments a stroke."""
    height, width = size
    most = _SEGMENTS[1]
    draws = key.uniform(6 * strokes, STREAM_STROKES).unflatten(1, (strokes, 6))
    row, column, heading, segments, lean, brush = draws.unbind(2)
    turn, long, more = key.uniform(3 * strokes * most, STREAM_SEGMENTS).unflatten(1, (strokes, most, 3)).unbind(3)
    cosines, sines = _circle_table(key.device)
    # in steps of the table; a stroke has its own range of turns, as in the released code
    heading = (heading * _TABLE_STEPS).floor()
    middle, reach = (angle * _TABLE_STEPS / (2 * math.pi) for angle in (_MEAN_TURN, _TURN_RANGE))
    turn = middle + (turn - lean.unsqueeze(2)) * reach
    row, column = row * height, column * width
    length = (long + more) * (longest / 2)
    length = torch.where(torch.arange(most, device=key.device) < _scaled(segments, _SEGMENTS).unsqueeze(2), length, 0.0)

    places = []
    part = torch.arange(1, dabs + 1, device=key.device) / dabs
    for segment in range(most):
        angle = heading + turn[:, :, segment] if segment % 2 else heading - turn[:, :, segment]
        step = angle.round().to(torch.int64) % _TABLE_STEPS
        down = (row + length[:, :, segment] * sines[step]).clamp(0, height - 1) - row
        right = (column + length[:, :, segment] * cosines[step]).clamp(0, width - 1) - column
        rows = (row.unsqueeze(2) + down.unsqueeze(2) * part).floor().to(torch.int64)
        columns = (column.unsqueeze(2) + right.unsqueeze(2) * part).floor().to(torch.int64)
        places.append(rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1))
        row, column = row + down, column + right
    radius = _scaled(brush, radii).unsqueeze(2).expand(-1, -1, most * dabs)
    return torch.stack(places, 2).flatten(1), radius.flatten(1)


def _scaled(uniform: Float[Tensor, "*shape"], ends: tuple[int, int]) -> Int[Tensor, "*shape"]:
    """Whole numbers between two, both included."""
    return ends[0] + (uniform * (ends[1] - ends[0] + 1)).to(torch.int64)


def _grown(time: Integer[Tensor, "batch row column"], corners: bool) -> Int[Tensor, "batch row column"]:
    """The first time in each pixel's neighbourhood: its four neighbours, and with ``corners`` those across as well."""
    result = time.clone()
    torch.minimum(result[:, :, 1:], time[:, :, :-1], out=result[:, :, 1:])
    torch.minimum(result[:, :, :-1], time[:, :, 1:], out=result[:, :, :-1])
    source = result.clone() if corners else time
    torch.minimum(result[:, 1:], source[:, :-1], out=result[:, 1:])
    torch.minimum(result[:, :-1], source[:, 1:], out=result[:, :-1])
    return result


def _number_within(
    middle: Float[Tensor, "batch block"], extent: Float[Tensor, "batch block"], size: int
) -> UInt8[Tensor, "batch block axis"]:
    """The number of the block where it lies on an axis, and the number of blocks elsewhere."""
    blocks = middle.shape[1]
    axis = torch.arange(size, dtype=torch.float32, device=middle.device)
    offset = axis - (middle - (extent / 2).floor()).unsqueeze(2)
    inside = (offset >= 0) & (offset < extent.unsqueeze(2))
    number = torch.arange(blocks, dtype=torch.uint8, device=middle.device).unsqueeze(1)
    return torch.where(inside, number, blocks)


def _offsets(
    row: Shaped[Tensor, "batch 1 1"], column: Shaped[Tensor, "batch 1 1"], size: tuple[int, int]
) -> tuple[Shaped[Tensor, "batch row 1"], Shaped[Tensor, "batch 1 column"]]:
    """How many rows and how many columns pixels lie away from one of them."""
    down = torch.arange(size[0], dtype=row.dtype, device=row.device).unsqueeze(1) - row
    return down.abs(), (torch.arange(size[1], dtype=row.dtype, device=row.device) - column).abs()


def _reached(time: Integer[Tensor, "batch pixel"], count: int, end: int) -> Int[Tensor, "batch 1"]:
    """By which of the times 0 ... ``end`` at least ``count`` pixels are covered."""
    return (_covered(time, end)[0] < count).sum(1, keepdim=True)


def _covered(
    time: Integer[Tensor, "batch pixel"], end: int
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]:
    """The number of pixels that are covered by each time, and those that are new."""
    one = torch.ones((), dtype=torch.int32, device=time.device)
    gained = torch.zeros(len(time), end + 1, dtype=torch.int32, device=time.device)
    gained.scatter_add_(1, time.to(torch.int64), one.expand(time.shape))
    return gained.cumsum(1, dtype=torch.int32), gained


def _earliest(
    time: Integer[Tensor, "batch pixel"],
    last: Int[Tensor, "batch 1"],
    ring: Float[Tensor, "batch row column"],
    count: int,
    size: tuple[int, int],
) -> Bool[Tensor, "batch pixel"]:
    """The pixels before the ``last`` time and further ones by their ring, to ``count``; the last ring as one reads."""
    end = 2 * sum(size)
    order = (ring + 1).clamp_max(end).to(torch.int16).flatten(1).masked_fill(time < last.to(time.dtype), 0)
    covered, gained = _covered(order, end)
    last = (covered < count).sum(1, keepdim=True)
    missing = count - (covered - gained).gather(1, last)
    last = last.to(order.dtype)
    added = order == last
    added &= added.cumsum(1, dtype=torch.int32) <= missing
    return added.logical_or_(order < last)


def _block_limit(mask_fraction: float) -> int:
    """Enough rectangles for all but one picture in a thousand (measured); a fraction of 0.25 needs 3.8 of 15."""
    return math.ceil(10 - 14 * math.log1p(-mask_fraction))


def _stroke_limit(mask_fraction: float) -> int:
    """Enough strokes for all but one picture in a thousand (at 0.97, two); on 128 x 128 pixels 0.25 needs 3.4 of 11."""
    return math.ceil(4 - 24 * math.log1p(-mask_fraction))


@lru_cache(maxsize=8)
def _aspect_table(device: torch.device) -> Float[Tensor, "step"]:
    """Height : width at equal steps of its logarithm."""
    steps = ((2 * step + 1) / _TABLE_STEPS - 1 for step in range(_TABLE_STEPS))
    return torch.tensor([_BLOCK_ASPECT**step for step in steps], dtype=torch.float32, device=device)


@lru_cache(maxsize=8)
def _circle_table(device: torch.device) -> tuple[Float[Tensor, "step"], Float[Tensor, "step"]]:
    """Cosine and sine at equal steps of a full turn."""
    angles = [2 * math.pi * step / _TABLE_STEPS for step in range(_TABLE_STEPS)]
    cosines, sines = ([function(angle) for angle in angles] for function in (math.cos, math.sin))
    return torch.tensor(cosines, dtype=torch.float32, device=device), torch.tensor(
        sines, dtype=torch.float32, device=device
    )


HOLES: dict[str, Callable[[NoiseKey, tuple[int, int], float], Bool[Tensor, "batch pixel"]]] = {
    "centre": centre_hole,
    "blocks": block_holes,
    "free_form": free_form_holes,
}
