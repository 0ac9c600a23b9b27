"""Harmless changes to clips in training: what a mouth and a voice say stays, how they look and sound does not.

A clip is changed as a whole, the same in every frame: nothing moves that did not, and no moment goes elsewhere.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.masking import NoiseKey

STREAM_PICTURES = 0x636C697000
STREAM_BINS = 0x636C697001


def centre(
    video: UInt8[Tensor, "batch frame channel height width"], margin: int
) -> Float[Tensor, "batch frame channel h w"]:
    """Pictures without ``margin`` pixels at each edge."""
    height, width = video.shape[-2:]
    return video[..., margin : height - margin, margin : width - margin].float()


def vary_pictures(
    key: NoiseKey, video: UInt8[Tensor, "batch frame channel height width"], margin: int, zoom: float, gamma: float
) -> Float[Tensor, "batch frame channel h w"]:
    """As :func:`centre`, but each clip moved by up to ``margin`` pixels, stretched by up to ``zoom`` in height and in
    width, turned by up to half of that in radians, mirrored half of the time, and brightened or darkened by an exponent
    of up to e to the ``gamma``. Beyond the edge the edge goes on."""
    height, width = video.shape[-2:]
    inner = (height - 2 * margin, width - 2 * margin)
    die = 2 * key.uniform(7, STREAM_PICTURES) - 1
    rows, columns = inner[0] / height * (1 + zoom * die[:, 0]), inner[1] / width * (1 + zoom * die[:, 1])
    mirror = torch.where(die[:, 2] < 0, -1.0, 1.0)
    angle = 0.5 * zoom * die[:, 3]
    down, right = 2 * margin / height * die[:, 4], 2 * margin / width * die[:, 5]
    across = torch.stack([mirror * columns * angle.cos(), -rows * angle.sin(), right], 1)
    along = torch.stack([mirror * columns * angle.sin(), rows * angle.cos(), down], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), [len(video), 1, *inner], align_corners=False)
    moved = F.grid_sample(video.flatten(1, 2).float(), grid, padding_mode="border", align_corners=False)
    if gamma:
        exponent = (gamma * die[:, 6]).exp()[:, None, None, None]
        moved = 255 * (moved / 255).clamp_min(1e-3) ** exponent
    return moved.unflatten(1, video.shape[1:3])


def vary_bins(key: NoiseKey, mel: Float[Tensor, "batch frame mel"], warp: float) -> Float[Tensor, "batch frame mel"]:
    """Frequencies of each clip stretched by up to ``warp`` and moved by up to a quarter of the bins times it, as if
    another throat spoke (vocal tract length perturbation, Jaitly & Hinton 2013)."""
    bins = mel.shape[2]
    die = 2 * key.uniform(2, STREAM_BINS) - 1
    number = torch.arange(bins, device=mel.device)
    place = (number * (1 + warp * die[:, :1]) + 0.25 * bins * warp * die[:, 1:]).clamp(0, bins - 1)
    low = place.floor().clamp_max(bins - 2)
    share = (place - low)[:, None]
    index = low.long()[:, None].expand_as(mel)
    return mel.gather(2, index) * (1 - share) + mel.gather(2, index + 1) * share
