"""How near a predicted picture comes to the true one: PSNR and SSIM, one number a picture.

Means over pictures are means of these numbers, as papers report them.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmssl.errors import UserError
from mmssl.perturbations.pictures import gaussian, smoothed

CEILING = 100.0
"""PSNR in dB of identical pictures, and of no pixels at all: infinity would spoil every mean. It is that of an error of
1e-5, a 400th of a step of 8 bits."""
_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(
    prediction: Float[Tensor, "batch channel height width"],
    target: Float[Tensor, "batch channel height width"],
    where: Bool[Tensor, "batch 1 height width"] | None = None,
    border: int = 0,
) -> Float[Tensor, " batch"]:
    """Peak signal-to-noise ratio in dB for pictures on the scale 0..1, over all channels and pixels of ``where``.

    At most :data:`CEILING`. Predictions are taken as they are: clamp them first if that is what is shown.

    Args:
        where: pixels that count; None = all.
        border: pixels left out at each edge (super-resolution papers: the factor).

    Raises:
        UserError: where pictures differ in size or ``border`` leaves nothing.
    """
    prediction, target, where = _inside(prediction, target, where, border)
    squared = (prediction.float() - target.float()).square().mean(1, keepdim=True)
    weight = torch.ones_like(squared) if where is None else where.float()
    error = (squared * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)
    return -10 * error.clamp_min(10 ** (-CEILING / 10)).log10()


def ssim(
    prediction: Float[Tensor, "batch channel height width"],
    target: Float[Tensor, "batch channel height width"],
    where: Bool[Tensor, "batch 1 height width"] | None = None,
    border: int = 0,
) -> Float[Tensor, " batch"]:
    """Structural similarity for pictures on the scale 0..1, mean over channels; 1 for identical ones.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity": Gaussian windows of
    11 x 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, all windows that lie inside the picture. Along a side shorter
    than 11 pixels the window is the longest odd one that fits; at 1 x 1 only the brightness is left to compare.

    Args:
        where: pixels that count; each window counts with the share of its weight that lies on them, so that a hole at
            the very edge counts too. None = all; without any pixel the answer is 1.
        border: pixels left out at each edge.

    Raises:
        UserError: where pictures differ in size or ``border`` leaves nothing.
    """
    prediction, target, where = _inside(prediction, target, where, border)
    one, other = prediction.float(), target.float()
    sides = [min(_RADIUS, (side - 1) // 2) for side in one.shape[-2:]]
    rows, columns = (gaussian(_SIGMA, radius) for radius in sides)
    mean = [smoothed(values, rows, columns) for values in (one, other, one * one, other * other, one * other)]
    luminance = mean[0] * mean[1]
    power = mean[0].square() + mean[1].square()
    similarity = (2 * luminance + _C1) / (power + _C1)
    similarity = similarity * (2 * (mean[4] - luminance) + _C2) / (mean[2] + mean[3] - power + _C2)
    similarity = similarity.mean(1, keepdim=True)
    if where is None:
        return similarity.mean((1, 2, 3))
    weight = smoothed(where.float(), rows, columns)
    total = weight.sum((1, 2, 3))
    return torch.where(total > 0, (similarity * weight).sum((1, 2, 3)) / total.clamp_min(1e-12), 1.0)


def _inside(
    prediction: Tensor, target: Tensor, where: Tensor | None, border: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All three without ``border`` pixels at each edge."""
    height, width = target.shape[-2:]
    if prediction.shape != target.shape or (where is not None and where.shape[-2:] != target.shape[-2:]):
        raise UserError(
            f"pictures of {list(prediction.shape)} and {list(target.shape)} cannot be compared"
            + ("" if where is None else f" at places of {list(where.shape)}")
            + ": give all the same size"
        )
    if border < 0 or 2 * border >= min(height, width):
        raise UserError(f"a border of {border} pixels leaves nothing of pictures of {height}x{width}: choose less")
    cut = (slice(border, height - border), slice(border, width - border))
    return prediction[..., *cut], target[..., *cut], None if where is None else where[..., *cut]
