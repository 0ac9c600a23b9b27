"""Product quantizer with Gumbel noise (Baevski et al. 2020, "wav2vec 2.0", section 2 and equations 1 and 4).

Each of G groups chooses one of V entries; the chosen entries, side by side, are the code of a frame. Forward takes the
choice, backward the softmax (Jang et al. 2017). Without training the choice is the likeliest entry, always the same.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmssl.errors import UserError


@dataclass(frozen=True)
class QuantizerConfig:
    """Shape of the codebook."""

    groups: int = 2
    """Choices made for a frame."""
    entries: int = 320
    """Entries that each chooses among."""
    dim: int = 256
    """Width of a code, all groups together."""

    def __post_init__(self) -> None:
        if self.groups < 1 or self.entries < 2:
            raise UserError(f"a codebook needs at least 1 group and 2 entries, got {self.groups} and {self.entries}")
        if self.dim < 1 or self.dim % self.groups:
            raise UserError(f"width {self.dim} of a code is not divisible by its {self.groups} groups")


class Quantized(NamedTuple):
    """What became of a set of frames."""

    code: Float[Tensor, "frame dim"]
    """Chosen entries, groups side by side."""
    entry: Int[Tensor, "frame group"]
    """Which entries they are."""
    soft: Float[Tensor, "frame group entry"]
    """Softmax of the logits, without noise and at temperature 1: what diversity is measured on."""


class GumbelQuantizer(nn.Module):
    """Frames to codes."""

    def __init__(self, config: QuantizerConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Linear(inputs, config.groups * config.entries)
        self.codebook = nn.Parameter(torch.empty(config.groups, config.entries, config.dim // config.groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Logits spread widely and entries uniform in 0..1, as in the published code."""
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        nn.init.uniform_(self.codebook)

    def forward(
        self,
        frames: Float[Tensor, "frame dim"],
        noise: Float[Tensor, "frame group entry"] | None = None,
        temperature: Float[Tensor, ""] | float = 1.0,
    ) -> Quantized:
        """Quantize ``frames``, in single precision. ``noise``: Gumbel noise, see :func:`gumbel`; None adds none."""
        config = self.config
        with torch.autocast(frames.device.type, enabled=False):
            logits = self.logits(frames.float()).unflatten(-1, (config.groups, config.entries))
            noisy = logits if noise is None else logits + noise
            entry = noisy.argmax(-1)
            chosen = torch.zeros_like(logits).scatter(-1, entry[..., None], 1.0)
            if torch.is_grad_enabled():
                relaxed = (noisy / temperature).softmax(-1)
                chosen = chosen + (relaxed - relaxed.detach())
            code = torch.einsum("fgv,gvd->fgd", chosen, self.codebook.float()).flatten(1)
            return Quantized(code, entry, logits.softmax(-1))


def gumbel(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gumbel noise from uniform noise in [0, 1) of 24 bits; 0, which has no logarithm, counts as half a step."""
    return -uniform.clamp_min(2.0**-25).log().neg().log()


def perplexity(shares: Float[Tensor, "group entry"]) -> Float[Tensor, ""]:
    """Entries in use, exp(entropy), added up over groups: from G (collapsed) to G x V (all alike)."""
    return (-torch.xlogy(shares, shares).sum(-1)).exp().sum()


def usage(entry: Int[Tensor, "frame group"], entries: int, weight: Float[Tensor, " frame"]) -> Tensor:
    """Share of frames, weighted, that chose each entry: ``[group, entry]``."""
    counts = weight.new_zeros(entry.shape[1], entries)
    counts = counts.scatter_add(1, entry.T, weight.expand(entry.shape[1], -1))
    return counts / weight.sum().clamp_min(1)
