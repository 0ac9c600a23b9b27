"""Which other hidden positions of its own sample a hidden position is told apart from."""

import torch
from jaxtyping import Int
from torch import Tensor

from mmssl.masking.noise import NoiseKey

STREAM_NEGATIVES = 0x6D61736B30


def draw_negatives(
    key: NoiseKey, counts: Int[Tensor, "batch"], most: int, negatives: int
) -> Int[Tensor, "batch most negatives"]:
    """For each of the ``counts`` hidden positions of a sample, ``negatives`` other ones of the same sample.

    Positions are told by rank among the hidden ones, 0 ... count - 1, ``most`` at most. Uniform with replacement and
    never the position itself, as published with wav2vec 2.0 (Baevski et al. 2020, section 3.2). A sample with fewer
    than two has none to draw, and what is returned for it, as for ranks beyond its count, means nothing.
    """
    bits = key.bits(most * negatives, STREAM_NEGATIVES).view(len(key), most, negatives)
    others = (counts - 1).clamp_min(1)[:, None, None]
    # uniform whole numbers below the number of others (Lemire 2019, multiply and shift)
    drawn = ((bits.to(torch.int64) & 0xFFFFFFFF) * others) >> 32
    own = torch.arange(most, device=key.device)[:, None]
    return (drawn + (drawn >= own)).clamp_max(most - 1)
