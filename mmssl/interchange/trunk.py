"""Whether a trunk fits weights that were trained elsewhere, whatever the modality."""

from dataclasses import replace
from pathlib import Path

from mmssl.errors import UserError
from mmssl.nn.transformer import TransformerConfig

SHAPE = ("dim", "depth", "heads", "mlp_dim", "norm", "norm_epsilon")
"""What of a trunk its weights were trained with."""


def taken_over(own: TransformerConfig, other: TransformerConfig) -> TransformerConfig:
    """``own`` with the shape of ``other``; dropout and stochastic depth stay."""
    return replace(own, **{name: getattr(other, name) for name in SHAPE})


def check_trunk(path: Path, theirs: TransformerConfig, ours: TransformerConfig) -> None:
    """Raises UserError where the shapes differ, saying what to set."""
    for name in SHAPE:
        needed, given = getattr(theirs, name), getattr(ours, name)
        if needed != given:
            raise UserError(f"{path} has an encoder of {name} {needed}, this model {given}: set it to {needed}")
