"""What stands where tokens were hidden: [MASK] mostly, else a random token or the token itself (BERT's 80/10/10)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmssl.masking import NoiseKey

STREAM_DIE = 2
STREAM_WORDS = 3


def replace_hidden(
    key: NoiseKey,
    token: Int[Tensor, "batch token"],
    hidden: Bool[Tensor, "batch token"],
    *,
    mask_id: int,
    ordinary: Int[Tensor, " ordinary"],
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    units: Int[Tensor, "batch token"] | None = None,
) -> Int[Tensor, "batch token"]:
    """Tokens as the network sees them; those not ``hidden`` are as they were (Devlin et al. 2019, section 3.1).

    One die is thrown for each unit (token, word, span), so that a word is masked, replaced or kept as a whole.

    Args:
        shares: of hidden units shown as ``mask_id``, as random tokens (one draw a token), and as they are.
        ordinary: ids that random tokens are drawn from: all but the special ones.
        units: number of each token's unit within its sample, from 0 on; None = each token is one.
    """
    length = token.shape[1]
    die = key.uniform(length, STREAM_DIE)
    if units is not None:
        die = die.gather(1, units.clamp_min(0).to(torch.int64))
    # 24 random bits reach every id: vocabularies are far smaller than 16 million
    draw = (key.uniform(length, STREAM_WORDS) * len(ordinary)).to(torch.int64).clamp_max(len(ordinary) - 1)
    random = ordinary[draw]
    shown = torch.where(die < shares[0], mask_id, torch.where(die < shares[0] + shares[1], random, token))
    return torch.where(hidden, shown, token)
