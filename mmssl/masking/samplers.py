"""Samplers of masks: who is hidden. ``hidden = f(key, grid, mask_fraction, *, valid=None, ...)``, bool [batch, token].

``grid`` is the length of a sequence, or (height, width), or (frames, height, width); tokens are its cells in row-major
order. ``mask_fraction`` is the share of a sample's valid tokens that ends up hidden. In a batch with padding
(``valid``) a sample with fewer than two valid tokens hides none.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking.blocks import block_mask, inverse_block_mask
from mmssl.masking.choice import Grid, cell_positions, check_valid, counts, grid_shape, hide_smallest, slots
from mmssl.masking.noise import NoiseKey
from mmssl.masking.spans import span_mask
from mmssl.masking.theory import hidden_count

# Noise streams of masks start at the letters "mask", far from the small numbers others choose for theirs.
STREAM_RANDOM = 0x6D61736B00
STREAM_TUBES = 0x6D61736B10
STREAM_UNITS = 0x6D61736B11
STREAM_UNIT_ROUNDING = 0x6D61736B12


def random_mask(
    key: NoiseKey, grid: Grid, mask_fraction: float, *, valid: Bool[Tensor, "batch token"] | None = None
) -> Bool[Tensor, "batch token"]:
    """Hide a uniformly random subset of exactly ``hidden_count(valid length, mask_fraction)`` tokens (He et al. 2022).

    Raises:
        UserError: for an impossible fraction, or a ``valid`` that does not fit the grid.
    """
    shape = grid_shape(grid, (1, 2, 3), "random_mask")
    tokens = math.prod(shape)
    check_valid(key, tokens, valid)
    count = counts(tokens, mask_fraction, valid)
    return hide_smallest(key.bits_at(cell_positions(key, shape, valid), STREAM_RANDOM), count, valid)


def tube_mask(
    key: NoiseKey, grid: tuple[int, int, int], mask_fraction: float, *, valid: Bool[Tensor, "batch token"] | None = None
) -> Bool[Tensor, "batch token"]:
    """Hide the same patches in every frame of a video: exactly ``hidden_count(height * width, mask_fraction)`` a frame.

    Tong et al. 2022, "VideoMAE" (arXiv 2203.12602): a patch hidden in one frame only could be copied from
    the next. With ``valid``, the patches that are valid in some frame are counted, and a frame hides those of the
    chosen ones that are valid in it: clips padded at their end keep the exact share.

    Raises:
        UserError: for an impossible fraction, or a ``valid`` that does not fit the grid.
    """
    frames, height, width = grid_shape(grid, (3,), "tube_mask")
    check_valid(key, frames * height * width, valid)
    patches = None if valid is None else valid.unflatten(1, (frames, height * width)).any(1)
    count = counts(height * width, mask_fraction, patches)
    bits = key.bits_at(cell_positions(key, (height, width), patches), STREAM_TUBES)
    hidden = hide_smallest(bits, count, patches).repeat(1, frames)
    return hidden if valid is None else hidden & valid


def unit_mask(
    key: NoiseKey,
    grid: int | tuple[int],
    mask_fraction: float,
    *,
    units: Int[Tensor, "batch token"],
    valid: Bool[Tensor, "batch token"] | None = None,
) -> Bool[Tensor, "batch token"]:
    """Hide whole units (words of several pieces, say), never a part of one.

    A unit is a run of equal numbers in ``units`` among the valid tokens of a sample. Units are taken in random order
    until they fill ``hidden_count(valid length, mask_fraction)`` tokens. The one that would go beyond is hidden with
    the probability missing / size: a sample is then off by less than that unit, and right on average, with no
    preference for short words. At least one unit is hidden and at least one stays visible; a sample that is a single
    unit hides nothing.

    Raises:
        UserError: for an impossible fraction, or ``units`` or ``valid`` that do not fit the grid.
    """
    (tokens,) = grid_shape(grid, (1,), "unit_mask")
    check_valid(key, tokens, valid)
    if units.dtype.is_floating_point or units.dtype.is_complex or units.dtype == torch.bool:
        raise UserError(f"units must be an integer tensor with the number of each token's unit, got {units.dtype}")
    if tuple(units.shape) != (len(key), tokens) or units.device != key.device:
        raise UserError(
            f"units must have the shape [{len(key)}, {tokens}] of batch and grid on {key.device}, "
            f"got {list(units.shape)} on {units.device}"
        )
    count = counts(tokens, mask_fraction, valid)
    wanted = torch.full_like(key.id, count) if isinstance(count, int) else count
    unit, sizes = _unit_ranks(units, valid)

    # Random order; the places behind the last unit have size 0 and come last, or where they come makes no difference.
    order = key.bits(tokens, STREAM_UNITS).masked_fill(sizes == 0, torch.iinfo(torch.int32).max).argsort(1)
    ordered = sizes.gather(1, order)
    after = ordered.cumsum(1)
    before = after - ordered
    # One formula for units that fit (before + size <= wanted), that cross the limit, and that come after it.
    chosen = before + key.uniform(1, STREAM_UNIT_ROUNDING) * ordered < wanted.unsqueeze(1)
    chosen[:, 0] = True
    chosen &= after < after[:, -1:]
    hidden = torch.zeros_like(chosen).scatter_(1, order, chosen).gather(1, unit)
    return hidden if valid is None else hidden & valid


def _unit_ranks(
    units: Int[Tensor, "batch token"], valid: Bool[Tensor, "batch token"] | None
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]:
    """The rank of each token's unit in its sample, and the number of valid tokens of the unit of each rank."""
    batch, tokens = units.shape
    rank = torch.arange(tokens, device=units.device).expand(batch, tokens)
    if valid is not None:
        # valid tokens move together to the front; the others go to one more column, which is cut off again
        rank = torch.where(valid, slots(valid), tokens).to(torch.int64)
        units = units.new_zeros(batch, tokens + 1).scatter_(1, rank, units)[:, :tokens]
    begins = torch.ones_like(units, dtype=torch.bool)
    begins[:, 1:] = units[:, 1:] != units[:, :-1]
    unit = (begins.cumsum(1) - 1).gather(1, rank.clamp_max(tokens - 1))
    size = torch.ones_like(unit) if valid is None else valid.to(torch.int64)
    return unit, torch.zeros_like(unit).scatter_add_(1, unit, size)


def fixed_hidden_count(sampler: str, grid: Grid, mask_fraction: float) -> int | None:
    """How many tokens ``SAMPLERS[sampler]`` hides in every sample without padding, or None when that varies ("units").

    For :meth:`mmssl.masking.plan.MaskPlan.from_hidden`, whose shapes it makes static. Holds for default options.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"there is no mask sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    shape = (grid,) if isinstance(grid, int) else tuple(grid)
    if sampler == "unit":
        return None
    if sampler == "tube":
        return shape[0] * hidden_count(math.prod(shape[1:]), mask_fraction)
    return hidden_count(math.prod(shape), mask_fraction)


SAMPLERS: dict[str, Callable[..., Bool[Tensor, "batch token"]]] = {
    "random": random_mask,
    "block": block_mask,
    "inverse_block": inverse_block_mask,
    "span": span_mask,
    "tube": tube_mask,
    "unit": unit_mask,
}
