"""The channel that tells a network where a hole is: one more than the pictures have, the last, 0 on whole pictures.

Published models have no such channel. On whole pictures it adds nothing, so its weights can be left out of the first
layer, and weights of zero can be put there, without changing a feature.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def split_hole(
    weight: Float[Tensor, "dim value *kernel"], channels: int, pixels: int = 1
) -> tuple[Float[Tensor, "dim rest *kernel"], Float[Tensor, "dim pixel *kernel"] | None]:
    """The weights of a first layer, linear or convolution, without those of the hole, and these; None without a hole.

    ``channels``: of pictures. ``pixels``: so many are flattened into one input, as (pixel, channel); of a patch
    embedding those of a patch, of a convolution 1.
    """
    by_channel = weight.unflatten(1, (pixels, -1))
    rest, hole = by_channel[:, :, :channels].flatten(1, 2), by_channel[:, :, channels:].flatten(1, 2)
    return rest.contiguous(), hole.contiguous() if hole.shape[1] else None


def join_hole(
    weight: Float[Tensor, "dim rest *kernel"], hole: Float[Tensor, "dim pixel *kernel"] | None, pixels: int = 1
) -> Float[Tensor, "dim value *kernel"]:
    """Inverse of :func:`split_hole`; a hole that nothing is known of has zeros."""
    by_channel = weight.unflatten(1, (pixels, -1))
    last = torch.zeros_like(by_channel[:, :, 0]) if hole is None else hole
    return torch.cat([by_channel, last.unsqueeze(2)], 2).flatten(1, 2)
