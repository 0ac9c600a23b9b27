"""Whether a model written for another library computes there what it computes here. It is loaded from disk as a user
would load it, preprocessing included, on a batch that is the same every time."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mmssl.errors import UserError
from mmssl.interchange.parity import compare, import_transformers, largest, load_transformers, quiet
from mmssl.perturbations.colour import srgb_to_lab
from mmssl.predictors.colorization import Colorization
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.predictors.pixels import PixelConfig, PixelPredictor

TIMM_EPSILON = 1e-6
"""Layer norm epsilon of timm's ViTs; their config.json has no word for another one."""


def probe_batch(config: MaskedAutoencoderConfig | PixelConfig) -> dict[str, Tensor]:
    """Four pictures: noise of full, half and low contrast, and a ramp."""
    height, width = config.image_size
    noise = torch.randint(0, 256, (3, config.channels, height, width), generator=torch.Generator().manual_seed(0))
    contrast = torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1, 1)
    ramp = torch.linspace(0, 255, config.channels * height * width).view(1, config.channels, height, width)
    image = torch.cat([128 + (noise - 128) * contrast, ramp]).to(torch.uint8)
    return {"image": image, "id": torch.arange(4), "epoch": torch.zeros(4, dtype=torch.int64)}


def given_there(
    predictor: MaskedAutoencoder | PixelPredictor, batch: dict[str, Tensor]
) -> Shaped[Tensor, "batch channel height width"]:
    """What another library is given of a batch, on the scale 0..255: the pictures; for colorization, which never sees a
    colour, their lightness in each channel, L of 0..100 stretched to that scale."""
    image = batch["image"]
    if isinstance(predictor, Colorization):
        return (srgb_to_lab(image.float() / 255)[:, :1] * 2.55).expand_as(image)
    return image


def noise_of(hidden: Bool[Tensor, "batch patch"]) -> Float[Tensor, "batch patch"]:
    """What ViTMAE takes as ``noise`` to hide exactly these patches: it keeps those of the smallest values."""
    return hidden.float() + torch.linspace(0, 0.5, hidden.shape[1])


def _features(tokens: Float[Tensor, "batch token dim"]) -> dict[str, Float[Tensor, "batch dim"]]:
    return {"mean": tokens[:, 1:].mean(1), "cls": tokens[:, 0]}


@torch.no_grad()
def compare_timm(
    predictor: MaskedAutoencoder | PixelPredictor, epsilon: float, folder: Path
) -> tuple[dict[str, float], float, str]:
    """Differences of features; their largest when layer norm's epsilon is left to timm; timm's version."""
    try:
        import timm
    except ImportError:
        raise UserError("comparing with timm needs timm: pip install 'mmssl[interchange]'") from None

    batch = probe_batch(predictor.config)
    features = predictor.encode_clean(batch)
    ours = {**features, "pooled": features["mean"]}
    choices: list[dict[str, Any]] = [{}]
    if epsilon != TIMM_EPSILON:
        choices.append({"norm_layer": partial(torch.nn.LayerNorm, eps=epsilon)})
    results = []
    for options in choices:
        model: Any = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True, **options).eval()
        inputs = timm_input(model, given_there(predictor, batch))
        theirs = {**_features(model.forward_features(inputs)), "pooled": model(inputs)}
        results.append(compare(ours, theirs))
    return results[-1], largest(results[0]), timm.__version__


def timm_input(
    model: Any, image: Shaped[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch channel height width"]:
    """Pictures on the scale 0..255, normalised as timm reads it in the model's config."""
    from timm.data.config import resolve_model_data_config

    settings = resolve_model_data_config(model)
    mean, std = (torch.tensor(settings[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    return (image.float() / 255 - mean) / std


def _load_transformers(
    name: str, folder: Path, image: Shaped[Tensor, "batch channel height width"], **options: Any
) -> tuple[Any, Float[Tensor, "batch channel height width"], str]:
    """A model, its input as AutoImageProcessor makes it of pictures 0..255, and the library's version."""
    transformers = import_transformers()
    model = load_transformers(name, folder, **options)
    with quiet():
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = processor(list(image), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    return model, inputs, transformers.__version__


@torch.no_grad()
def compare_vit(predictor: MaskedAutoencoder | PixelPredictor, folder: Path) -> tuple[dict[str, float], str]:
    """Differences of the features of transformers' ViTModel, and the library's version."""
    batch = probe_batch(predictor.config)
    image = given_there(predictor, batch)
    model, inputs, version = _load_transformers("ViTModel", folder, image, add_pooling_layer=False)
    return compare(predictor.encode_clean(batch), _features(model(inputs).last_hidden_state)), version


@torch.no_grad()
def compare_vit_mae(predictor: MaskedAutoencoder, folder: Path) -> tuple[dict[str, float], str]:
    """Differences of loss (same mask) and features of ViTMAEForPreTraining, and the library's version."""
    batch = probe_batch(predictor.config)
    model, inputs, version = _load_transformers("ViTMAEForPreTraining", folder, given_there(predictor, batch))
    hidden = predictor.perturb(batch)["plan"].hidden
    ours = {**predictor.encode_clean(batch), "loss": predictor(batch)["loss"]}
    loss = model(inputs, noise=noise_of(hidden)).loss
    model.config.mask_ratio = 0.0
    tokens = model.vit(inputs, noise=noise_of(torch.zeros_like(hidden))).last_hidden_state
    return compare(ours, {**_features(tokens), "loss": loss}), version
