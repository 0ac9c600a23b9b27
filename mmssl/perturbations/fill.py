"""Filling hidden regions from what is visible, without learning: the baseline that shows what redundancy gives."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def push_pull(
    image: Float[Tensor, "batch channel height width"], known: Bool[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch channel height width"]:
    """Fill unknown pixels with smooth interpolation of known ones; known pixels stay as they are.

    Pull: average known pixels down a pyramid until all is known; push: fill each level from the coarser one
    (Gortler et al. 1996, "The Lumigraph", §3.4). Linear in the number of pixels and vectorised over the batch.
    A sample without any known pixel becomes 0.
    """
    weight = known.to(image.dtype)
    height, width = image.shape[-2:]
    if height == 1 and width == 1:
        return image * weight
    pool = {"kernel_size": 2, "ceil_mode": True, "count_include_pad": False}
    coarse_weight = F.avg_pool2d(weight, **pool)
    coarse = F.avg_pool2d(image * weight, **pool) / coarse_weight.clamp(min=1e-6)
    coarse = push_pull(coarse, coarse_weight > 0)
    # fractional coverage matters little here: a cell with any known pixel counts as known on the coarser level
    filled = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return torch.where(known, image, filled)


def interpolate_hidden(
    image: Float[Tensor, "batch channel height width"],
    hidden: Bool[Tensor, "batch 1 height width"],
    smoothing: int = 32,
) -> Float[Tensor, "batch channel height width"]:
    """Harmonic interpolation of hidden pixels from visible ones.

    :func:`push_pull` gives the start; ``smoothing`` Jacobi sweeps move it towards the solution of Laplace's equation
    with the visible pixels as boundary values, the smoothest answer that agrees with all that is visible.
    """
    filled = push_pull(image, ~hidden)
    for _ in range(smoothing):
        padded = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        neighbours = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        filled = torch.where(hidden, neighbours / 4, filled)
    return filled
