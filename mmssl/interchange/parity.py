"""What comparing a model that was written with the run it was made from needs, whatever the modality."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.errors import UserError

TOLERANCE = 1e-4
"""Largest difference of a feature, a logit or a loss that counts as the same: single precision over some 24 blocks."""


def largest(differences: Mapping[str, float]) -> float:
    """The largest difference; not a number where one of them is not."""
    return torch.tensor(list(differences.values()), dtype=torch.float64).max().item()


def difference(ours: Float[Tensor, "*size"], theirs: Float[Tensor, "*size"]) -> float:
    """The largest difference of two tensors."""
    return (ours - theirs).abs().max().item()


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference in each of ``theirs``."""
    return {name: difference(ours[name], value) for name, value in theirs.items()}


def import_transformers() -> Any:
    """The library, or a sentence that says how to get it."""
    try:
        import transformers
    except ImportError:
        raise UserError("comparing with transformers needs it: pip install 'mmssl[interchange]'") from None
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' report on every load: we look at the facts behind it ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_transformers(name: str, folder: Path, **options: Any) -> Any:
    """A model of transformers in eval mode. Raises UserError where the library does not take all that was written."""
    transformers = import_transformers()
    with quiet():
        model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **options)
    if any(info.values()):
        raise UserError(f"transformers {transformers.__version__} does not take all weights written for it: {info}")
    return model.eval()
