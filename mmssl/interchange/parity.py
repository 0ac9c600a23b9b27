"""Whether a model written for another library computes there what it computes here. It is loaded from disk as a user
would load it, preprocessing included, on a batch that is the same every time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mmssl.errors import UserError
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

TOLERANCE = 1e-4
"""Largest difference of a feature or a loss that counts as the same: single precision over some 24 blocks."""


TIMM_EPSILON = 1e-6
"""Layer norm epsilon of timm's ViTs; their config.json has no word for another one."""


def largest(differences: Mapping[str, float]) -> float:
    """The largest difference; not a number where one of them is not."""
    return torch.tensor(list(differences.values()), dtype=torch.float64).max().item()


def probe_batch(config: MaskedAutoencoderConfig) -> dict[str, Tensor]:
    """Four pictures: noise of full, half and low contrast, and a ramp."""
    height, width = config.image_size
    noise = torch.randint(0, 256, (3, config.channels, height, width), generator=torch.Generator().manual_seed(0))
    contrast = torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1, 1)
    ramp = torch.linspace(0, 255, config.channels * height * width).view(1, config.channels, height, width)
    image = torch.cat([128 + (noise - 128) * contrast, ramp]).to(torch.uint8)
    return {"image": image, "id": torch.arange(4), "epoch": torch.zeros(4, dtype=torch.int64)}


def noise_of(hidden: Bool[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
    """What ViTMAE takes as ``noise`` to hide exactly these patches: it keeps those of the smallest values."""
    return hidden.float() + torch.linspace(0, 0.5, hidden.shape[1])


def _difference(ours: Float[Tensor, "..."], theirs: Float[Tensor, "..."]) -> float:
    return (ours - theirs).abs().max().item()


def _features(tokens: Float[Tensor, "batch token dim"]) -> dict[str, Float[Tensor, "batch dim"]]:
    return {"mean": tokens[:, 1:].mean(1), "cls": tokens[:, 0]}


def _compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: _difference(ours[name], value) for name, value in theirs.items()}


@torch.no_grad()
def compare_timm(predictor: MaskedAutoencoder, folder: Path) -> tuple[dict[str, float], float, str]:
    """Differences of features; their largest when layer norm's epsilon is left to timm; timm's version."""
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError:
        raise UserError("comparing with timm needs timm: pip install 'mmssl[interchange]'") from None

    batch = probe_batch(predictor.config)
    features = predictor.encode_clean(batch)
    ours = {**features, "pooled": features["mean"]}
    epsilon = predictor.config.encoder.norm_epsilon
    choices: list[dict[str, Any]] = [{}]
    if epsilon != TIMM_EPSILON:
        choices.append({"norm_layer": partial(torch.nn.LayerNorm, eps=epsilon)})
    results = []
    for options in choices:
        model: Any = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True, **options).eval()
        settings = resolve_model_data_config(model)
        mean, std = (torch.tensor(settings[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
        inputs = (batch["image"].float() / 255 - mean) / std
        theirs = {**_features(model.forward_features(inputs)), "pooled": model(inputs)}
        results.append(_compare(ours, theirs))
    return results[-1], largest(results[0]), timm.__version__


@contextmanager
def _quiet() -> Iterator[None]:
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


def _load_transformers(
    name: str, folder: Path, image: UInt8[Tensor, "batch channel height width"], **options: Any
) -> tuple[Any, Float[Tensor, "batch channel height width"], str]:
    """A model, its input as AutoImageProcessor makes it, and the library's version."""
    try:
        import transformers
    except ImportError:
        raise UserError("comparing with transformers needs it: pip install 'mmssl[interchange]'") from None
    with _quiet():
        model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **options)
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
    if any(info.values()):
        raise UserError(f"transformers {transformers.__version__} does not take all weights written for it: {info}")
    inputs = processor(list(image), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    return model.eval(), inputs, transformers.__version__


@torch.no_grad()
def compare_vit(predictor: MaskedAutoencoder, folder: Path) -> tuple[dict[str, float], str]:
    """Differences of the features of transformers' ViTModel, and the library's version."""
    batch = probe_batch(predictor.config)
    model, inputs, version = _load_transformers("ViTModel", folder, batch["image"], add_pooling_layer=False)
    return _compare(predictor.encode_clean(batch), _features(model(inputs).last_hidden_state)), version


@torch.no_grad()
def compare_vit_mae(predictor: MaskedAutoencoder, folder: Path) -> tuple[dict[str, float], str]:
    """Differences of loss (same mask) and features of ViTMAEForPreTraining, and the library's version."""
    batch = probe_batch(predictor.config)
    model, inputs, version = _load_transformers("ViTMAEForPreTraining", folder, batch["image"])
    hidden = predictor.perturb(batch)["plan"].hidden
    ours = {**predictor.encode_clean(batch), "loss": predictor(batch)["loss"]}
    loss = model(inputs, noise=noise_of(hidden)).loss
    model.config.mask_ratio = 0.0
    tokens = model.vit(inputs, noise=noise_of(torch.zeros_like(hidden))).last_hidden_state
    return _compare(ours, {**_features(tokens), "loss": loss}), version
