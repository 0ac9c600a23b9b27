"""Masks of images made of rectangles: hide some blocks, or all but one.

Only integers and correctly rounded float operations (+, *, /, sqrt, round) decide, so the mask is the same on any
device; exponentials, which are not, come from a table computed on the host.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking.choice import cell_positions, check_valid, counts, grid_shape, hide_smallest
from mmssl.masking.noise import NoiseKey

STREAM_BLOCKS = 0x6D61736B30
STREAM_BLOCK_CELLS = 0x6D61736B31
STREAM_INVERSE_BLOCK = 0x6D61736B32
STREAM_INVERSE_CELLS = 0x6D61736B33

_ASPECT_STEPS = 4096


def block_mask(
    key: NoiseKey,
    grid: tuple[int, int],
    mask_fraction: float,
    *,
    valid: Bool[Tensor, "batch token"] | None = None,
    min_block: int | None = None,
    min_aspect: float = 0.3,
) -> Bool[Tensor, "batch token"]:
    """Hide random rectangles until exactly ``hidden_count(valid cells, mask_fraction)`` cells are hidden.

    Bao et al. 2022, "BEiT" (arXiv 2106.08254), algorithm 1: the area of a block is uniform between ``min_block`` and
    what is still missing, its place uniform, both ends included. As in the reference code the aspect ratio is uniform
    on a logarithmic scale. The last block is trimmed to the exact count at random; should the blocks run out, after
    8 / (1 - mask_fraction) of them, random cells fill up.

    Args:
        grid: (height, width).
        valid: real cells; blocks are placed within the rectangle around them.
        min_block: smallest area of a block; by default 16 for 14 x 14 valid cells, as in BEiT, and in proportion.
        min_aspect: height : width lies between this and its inverse.

    Raises:
        UserError: for values out of range or a ``valid`` that does not fit the grid.
    """
    height, width = grid_shape(grid, (2,), "block_mask")
    check_valid(key, height * width, valid)
    count = counts(height * width, mask_fraction, valid)
    if min_block is not None and not 1 <= min_block <= height * width:
        raise UserError(f"min_block must be between 1 and the {height * width} cells of the grid, got {min_block}")
    limit = _block_limit(mask_fraction)
    draws = key.uniform(4 * limit, STREAM_BLOCKS).unflatten(1, (limit, 4))
    area_draw, row_draw, column_draw = draws[:, :, 0], draws[:, :, 2], draws[:, :, 3]
    aspect = _aspects(min_aspect, key.device)[(draws[:, :, 1] * _ASPECT_STEPS).to(torch.int64)]
    top, left, rows, columns, cells = _extent(key, height, width, valid)
    least = (cells * 16 + 98) // 196 if min_block is None else torch.full_like(cells, min_block)
    least = least.clamp_min(1).to(torch.float32)

    row, column = _axes(height, width, key.device)
    uncovered = torch.ones(len(key), height * width, dtype=torch.bool, device=key.device) if valid is None else valid
    # how many blocks came before the one that covers a cell
    arrival = torch.zeros(uncovered.shape, dtype=torch.int16, device=key.device)
    for block in range(limit):
        missing = count - cells + uncovered.sum(1)
        area = least + area_draw[:, block] * (missing - least).clamp_min(0)
        block_rows, block_columns = _sides(area, aspect[:, block], rows, columns)
        first_row = top + (row_draw[:, block] * (rows - block_rows + 1)).floor()
        first_column = left + (column_draw[:, block] * (columns - block_columns + 1)).floor()
        covered = _within(row - first_row.unsqueeze(1), block_rows, column - first_column.unsqueeze(1), block_columns)
        uncovered = uncovered & ~covered
        arrival += uncovered
    bits = key.bits_at(cell_positions(key, (height, width), valid), STREAM_BLOCK_CELLS)
    return hide_smallest((arrival.to(torch.int64) << 32) + bits, count, valid)


def inverse_block_mask(
    key: NoiseKey,
    grid: tuple[int, int],
    mask_fraction: float,
    *,
    valid: Bool[Tensor, "batch token"] | None = None,
    min_aspect: float = 0.5,
) -> Bool[Tensor, "batch token"]:
    """Hide all but one rectangle: exactly ``hidden_count(valid cells, mask_fraction)`` cells are hidden.

    Darcet et al. 2025, "CAPI" (arXiv 2502.08769), "inverse block masking + roll": the rectangle lies
    anywhere on the torus, so it may leave at one edge and come in at the opposite one, and every cell is equally often
    hidden. Its last column is thinned out at random to meet the count.

    Args:
        grid: (height, width).
        valid: real cells; the torus is the rectangle around them. Where it holds cells that are not valid, random
            further cells stay visible to meet the count.
        min_aspect: height : width lies between this and its inverse, as far as the grid allows.

    Raises:
        UserError: for values out of range or a ``valid`` that does not fit the grid.
    """
    height, width = grid_shape(grid, (2,), "inverse_block_mask")
    check_valid(key, height * width, valid)
    count = counts(height * width, mask_fraction, valid)
    draws = key.uniform(3, STREAM_INVERSE_BLOCK)
    aspect = _aspects(min_aspect, key.device)[(draws[:, 0] * _ASPECT_STEPS).to(torch.int64)]
    top, left, rows, columns, cells = _extent(key, height, width, valid)
    visible = (cells - count).clamp_min(1)
    block_rows, _ = _sides(visible.to(torch.float32), aspect, rows, columns)
    # tall enough for the width of the grid to hold what is visible
    block_rows = torch.maximum(block_rows, torch.ceil(visible / columns))
    block_columns = torch.ceil(visible / block_rows)

    row, column = _axes(height, width, key.device)
    row_offset = _wrapped(row - top.unsqueeze(1) - (draws[:, 1] * rows).floor().unsqueeze(1), rows)
    column_offset = _wrapped(column - left.unsqueeze(1) - (draws[:, 2] * columns).floor().unsqueeze(1), columns)
    block = _within(row_offset, block_rows, column_offset, block_columns).to(torch.int64)
    core = _within(row_offset, block_rows, column_offset, block_columns - 1)
    bits = key.bits_at(cell_positions(key, (height, width), valid), STREAM_INVERSE_CELLS)
    return hide_smallest(((block + core) << 32) + bits, count, valid)


def _block_limit(mask_fraction: float) -> int:
    """Enough blocks for all but a few samples in a thousand (measured; on 32 x 32 cells at a fraction of 0.9, 15)."""
    return math.ceil(8 / (1 - mask_fraction))


@lru_cache(maxsize=32)
def _aspects(min_aspect: float, device: torch.device) -> Float[Tensor, "step"]:
    """Height : width at equal steps of its logarithm between ``min_aspect`` and its inverse."""
    if not 0 < min_aspect <= 1:
        raise UserError(f"min_aspect must be above 0 and at most 1 (a square), got {min_aspect}")
    steps = ((2 * step + 1) / _ASPECT_STEPS - 1 for step in range(_ASPECT_STEPS))
    return torch.tensor([min_aspect**step for step in steps], dtype=torch.float32, device=device)


def _axes(height: int, width: int, device: torch.device) -> tuple[Float[Tensor, "row"], Float[Tensor, "column"]]:
    return (
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
    )


def _extent(
    key: NoiseKey, height: int, width: int, valid: Bool[Tensor, "batch token"] | None
) -> tuple[
    Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"], Int[Tensor, "batch"]
]:
    """First row, first column, rows and columns of the rectangle around the valid cells, and the number of these."""
    if valid is None:
        zero = torch.zeros(len(key), device=key.device)
        return zero, zero, zero + height, zero + width, torch.full_like(key.id, height * width)
    cells = valid.unflatten(1, (height, width))
    row, column = _axes(height, width, key.device)
    used_rows, used_columns = cells.any(2), cells.any(1)
    top = torch.where(used_rows, row, height - 1).amin(1)
    left = torch.where(used_columns, column, width - 1).amin(1)
    rows = torch.where(used_rows, row, 0).amax(1) - top + 1
    columns = torch.where(used_columns, column, 0).amax(1) - left + 1
    # a sample without any valid cell hides none wherever its blocks fall
    return top, left, rows.clamp_min(1), columns.clamp_min(1), valid.sum(1)


def _sides(
    area: Float[Tensor, "batch"],
    aspect: Float[Tensor, "batch"],
    rows: Float[Tensor, "batch"],
    columns: Float[Tensor, "batch"],
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Whole height and width of a block of about this area and aspect ratio that fits into rows x columns."""
    # no taller and no wider than the grid at this area; where it cannot be both, the sides are cut below
    aspect = torch.minimum(torch.maximum(aspect, area / (columns * columns)), rows * rows / area)
    block_rows = torch.minimum((area * aspect).sqrt().round().clamp_min(1), rows)
    block_columns = torch.minimum((area / aspect).sqrt().round().clamp_min(1), columns)
    return block_rows, block_columns


def _wrapped(offset: Float[Tensor, "batch axis"], size: Float[Tensor, "batch"]) -> Float[Tensor, "batch axis"]:
    return torch.where(offset < 0, offset + size.unsqueeze(1), offset)


def _within(
    row_offset: Float[Tensor, "batch row"],
    rows: Float[Tensor, "batch"],
    column_offset: Float[Tensor, "batch column"],
    columns: Float[Tensor, "batch"],
) -> Bool[Tensor, "batch token"]:
    """Cells whose offsets from the first row and column of a block lie in 0 ... rows - 1 and 0 ... columns - 1."""
    in_rows = (row_offset >= 0) & (row_offset < rows.unsqueeze(1))
    in_columns = (column_offset >= 0) & (column_offset < columns.unsqueeze(1))
    return (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).flatten(1)
