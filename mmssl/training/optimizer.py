"""AdamW without decay where decay makes no sense, and the learning rate of a step."""

import math

import torch
from torch import Tensor, nn

from mmssl.nn.over_ranks import is_cut

NO_DECAY = ("bias", "norm", "token", "position", "pos_embed", "scale")
"""Parts of parameter names that are never decayed: a rule by dimension alone would decay 3-D tokens."""


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls at a parameter: not if its name says no, and not where it has less than 2 dimensions,
    such as batch norm's ``bn1.weight`` in models of timm."""
    return parameter.ndim > 1 and not any(part in name.lower() for part in NO_DECAY)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Groups for AdamW, with and without decay, each with the names of its parameters. Those that are cut among
    processes have groups of their own: the fused kernel takes one kind at a time."""
    groups: dict[tuple[bool, bool], dict] = {
        (decayed, cut): {"params": [], "names": [], "weight_decay": weight_decay if decayed else 0.0}
        for decayed in (True, False)
        for cut in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups[is_decayed(name, parameter), is_cut(parameter)]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def make_optimizer(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW with torch's fused kernel, on CPU as on GPU."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=0.0, betas=betas, fused=True)


def learning_rate_at(step: int, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up from peak/warmup, then a half cosine to 0 (Loshchilov & Hutter 2017; He et al. 2022, table 8)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
