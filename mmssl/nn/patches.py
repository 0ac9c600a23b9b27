"""Pictures as rows of patches, and where a patch stands.

A patch is flattened as (row, column, channel), the order of MAE's targets (He et al. 2022), so that pixels of a
patch row lie side by side in memory.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mmssl.errors import UserError

MOST_PATCHES = 2**20
"""Beyond it positions alone take gigabytes: no Transformer reads so many, but a damaged config may ask for them."""


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches. Raises UserError where the patch does not divide the image, or it has too many."""
    (height, width), (patch_height, patch_width) = image_size, patch_size
    if min(height, width, patch_height, patch_width) < 1 or height % patch_height or width % patch_width:
        raise UserError(
            f"patch size {patch_height}x{patch_width} does not divide image size {height}x{width}: "
            "choose an image size that is a multiple of the patch size"
        )
    rows, columns = height // patch_height, width // patch_width
    if rows * columns > MOST_PATCHES:
        raise UserError(
            f"an image of {height}x{width} has {rows * columns:,} patches of {patch_height}x{patch_width}, more than "
            f"{MOST_PATCHES:,}: choose larger patches"
        )
    return rows, columns


def patchify(
    image: Shaped[Tensor, "batch channel height width"], patch_size: tuple[int, int]
) -> Shaped[Tensor, "batch patch pixel"]:
    """Cut pictures of any size, channel count and dtype into rows of patches, row by row."""
    batch, channels, height, width = image.shape
    ph, pw = patch_size
    grid = patch_grid((height, width), patch_size)
    cut = image.reshape(batch, channels, grid[0], ph, grid[1], pw)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid[0] * grid[1], ph * pw * channels)


def unpatchify(
    patches: Shaped[Tensor, "batch patch pixel"], image_size: tuple[int, int], patch_size: tuple[int, int]
) -> Shaped[Tensor, "batch channel height width"]:
    """Inverse of :func:`patchify`."""
    rows, columns = patch_grid(image_size, patch_size)
    ph, pw = patch_size
    cut = patches.reshape(patches.shape[0], rows, columns, ph, pw, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, *image_size)


def sincos_positions(
    grid: tuple[int, int], dim: int, reach: tuple[int, int] | None = None
) -> Float[Tensor, "position dim"]:
    """Fixed 2-D sine-cosine positions of MAE: first half of the width for the column, second half for the row.

    Each half holds sines then cosines of the coordinate at frequencies 10000^(-i / (dim/4)). The reference
    implementation puts the column first; kept, so that its weights fit. Computed in float64. With ``reach``, the cells
    of ``grid`` share the extent of a grid of that many cells, centre to centre as in image resampling.
    Raises UserError where ``dim`` is not divisible by 4.
    """
    if dim % 4:
        raise UserError(f"sine-cosine positions need a width divisible by 4, got {dim}")
    steps = (
        (torch.arange(n, dtype=torch.float64) + 0.5) * (m / n) - 0.5 for n, m in zip(grid, reach or grid, strict=True)
    )
    rows, columns = torch.meshgrid(*steps, indexing="ij")
    return torch.cat([sincos(columns.flatten(), dim // 2), sincos(rows.flatten(), dim // 2)], 1)


def sincos(coordinate: Float[Tensor, " position"], dim: int) -> Float[Tensor, "position dim"]:
    """Sines, then cosines of a coordinate at frequencies 10000^(-i / (dim/2)). Computed in float64."""
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = coordinate.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def resize_positions(
    table: Float[Tensor, "position dim"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "new_position dim"]:
    """Bicubic resampling of learned positions from grid ``old`` to grid ``new`` (rows x columns, never guessed).

    Raises UserError where the table is not of grid ``old``.
    """
    if table.shape[0] != old[0] * old[1]:
        raise UserError(f"{table.shape[0]} positions are not a grid of {old[0]}x{old[1]}: give the grid they are for")
    if old == new:
        return table
    square = table.reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(square, new, mode="bicubic", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1)
