"""What all samplers share: the checks of their arguments, the exact counts, and the choice of the k smallest."""

from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking.noise import NoiseKey
from mmssl.masking.theory import check_fraction, hidden_count

Grid = int | tuple[int, ...]

# A cell of a grid with several axes is addressed by its coordinates, not by its row-major index, so that padding on the
# right or below moves nobody's noise: 12 bits for the column, 12 for the row, 8 for the frame.
_AXIS_SHIFTS = (0, 12, 24)
_AXIS_LIMITS = (1 << 12, 1 << 12, 1 << 8)


def grid_shape(grid: Grid, axes: tuple[int, ...], sampler: str) -> tuple[int, ...]:
    """``grid`` as a tuple, or a UserError when ``sampler``, which takes ``axes`` numbers of axes, cannot work on it."""
    shape = tuple(grid) if isinstance(grid, tuple | list) else (grid,)
    if len(shape) not in axes or any(not isinstance(size, int) or size < 1 for size in shape):
        names = {1: "a length", 2: "(height, width)", 3: "(frames, height, width)"}
        wanted = " or ".join(names[number] for number in axes)
        raise UserError(f"{sampler} needs a grid of {wanted}, all at least 1, got {grid}")
    if len(shape) > 1 and any(size > limit for size, limit in zip(reversed(shape), _AXIS_LIMITS, strict=False)):
        raise UserError(f"grid {grid} is too large: at most 256 frames of 4096 x 4096 patches")
    return shape


def check_valid(key: NoiseKey, tokens: int, valid: Tensor | None) -> None:
    """Refuse a ``valid`` that is not bool [batch, tokens] on the key's device."""
    if valid is None:
        return
    if valid.dtype != torch.bool:
        raise UserError(
            f"valid must be a boolean tensor (True = real data), got {valid.dtype}: compare or convert it first"
        )
    if tuple(valid.shape) != (len(key), tokens):
        raise UserError(f"valid must have the shape [{len(key)}, {tokens}] of batch and grid, got {list(valid.shape)}")
    if valid.device != key.device:
        raise UserError(f"valid is on {valid.device} but ids and epochs are on {key.device}: move them together")


def counts(tokens: int, mask_fraction: float, valid: Bool[Tensor, "batch token"] | None) -> int | Int[Tensor, "batch"]:
    """Number of tokens to hide: one for all samples when everything is real, else one each from its valid length.

    A sample in which fewer than two tokens are real hides none; every other one hides at least one and keeps one.
    """
    if valid is None:
        return hidden_count(tokens, mask_fraction)
    check_fraction(mask_fraction)
    return counts_of(valid.sum(1), tokens, mask_fraction)


def counts_of(lengths: Int[Tensor, "batch"], longest: int, mask_fraction: float) -> Int[Tensor, "batch"]:
    """:func:`hidden_count` for lengths that live on a device, looked up so that no host sync is needed."""
    # the next power of two: batches are padded to ever different lengths, and each new one would cost a table
    return _count_table(1 << longest.bit_length(), mask_fraction, lengths.device)[lengths]


@lru_cache(maxsize=64)
def _count_table(size: int, mask_fraction: float, device: torch.device) -> Int[Tensor, "length"]:
    table = [max(min(n - int(n * (1 - mask_fraction)), n - 1), 0) for n in range(size)]
    return torch.tensor(table, dtype=torch.int64, device=device)


def slots(valid: Bool[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Rank (int32) of each token among the valid ones before it: its position once padding is taken out."""
    return torch.cumsum(valid, 1, dtype=torch.int32) - 1


def cell_positions(
    key: NoiseKey, shape: tuple[int, ...], valid: Bool[Tensor, "batch token"] | None
) -> Int[Tensor, "*rows token"]:
    """The positions (int32) at which the noise of a grid's tokens is read; the amount of padding does not enter.

    For a sequence the rank among the sample's valid tokens, for a grid with more axes the coordinates of the cell.
    """
    if len(shape) == 1:
        return torch.arange(shape[0], dtype=torch.int32, device=key.device) if valid is None else slots(valid)
    codes = torch.zeros((), dtype=torch.int32, device=key.device)
    for size, shift in zip(reversed(shape), _AXIS_SHIFTS, strict=False):
        axis = torch.arange(size, dtype=torch.int32, device=key.device) << shift
        codes = axis.reshape(-1, *[1] * codes.ndim) + codes
    return codes.flatten()


def hide_smallest(
    order: Int[Tensor, "batch token"],
    count: int | Int[Tensor, "batch"],
    valid: Bool[Tensor, "batch token"] | None = None,
) -> Bool[Tensor, "batch token"]:
    """Hide the ``count`` valid tokens with the smallest ``order``; no two valid tokens of a row may have the same."""
    if isinstance(count, int):
        # faster than kthvalue, and allowed where torch is told to be deterministic
        return order <= order.topk(count, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)
    if valid is not None:
        # A valid token may hold this largest number too: it is then the last of its row, and the last is never hidden.
        order = order.masked_fill(~valid, torch.iinfo(order.dtype).max)
    last = order.sort(dim=1).values.gather(1, (count - 1).clamp_min(0).unsqueeze(1))
    hidden = (order <= last) & (count > 0).unsqueeze(1)
    return hidden if valid is None else hidden & valid
