"""Small models with every weight random, biases and norms too, so that no mix-up can hide behind zeros and ones."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors import predictor_from_config
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.predictors.pixels import PixelConfig, PixelPredictor

ENCODER = TransformerConfig(dim=24, depth=3, heads=2, mlp_dim=40)
DECODER = TransformerConfig(dim=16, depth=2, heads=4, mlp_dim=28)


def tiny_config(**changes: Any) -> MaskedAutoencoderConfig:
    """Pictures of 16 x 16 in patches of 4 x 4, with statistics of their own for each channel."""
    channels = changes.get("channels", 3)
    config = MaskedAutoencoderConfig(
        image_size=(16, 16),
        patch_size=(4, 4),
        encoder=ENCODER,
        decoder=DECODER,
        channels=channels,
        mean=(0.3, 0.45, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3, 0.35)[:channels],
    )
    return replace(config, **changes)


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights of a size that a trained network might have; fixed tables stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if not parameter.requires_grad:
            continue
        parameter.copy_(1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise)


def tiny_model(seed: int = 0, **changes: Any) -> MaskedAutoencoder:
    """A predictor of :func:`tiny_config` with random weights, in eval mode."""
    model = MaskedAutoencoder(tiny_config(**changes)).eval()
    randomise(model, seed)
    return model


PIXEL_TASKS = ("colorization", "inpainting", "super_resolution", "restoration")


def tiny_pixels(task: str, seed: int = 0, **changes: Any) -> PixelPredictor:
    """A task on pixels of the same pictures and trunk, with random weights and statistics of batch norm, in eval mode;
    with ``timm_model`` in place of the trunk, pictures are twice as large."""
    settings: dict[str, Any] = {
        "image_size": (16, 16), "patch_size": (4, 4), "encoder": asdict(ENCODER), "mean": (0.3, 0.45, 0.5),
        "std": (0.2, 0.25, 0.3), "decoder_dim": 8, "detail": 1,
    }  # fmt: skip
    if "timm_model" in changes:
        settings |= {"image_size": (64, 64), "encoder": None}
    if task == "super_resolution":
        settings |= {"scale": 2}
    model = predictor_from_config({"predictor": task, **settings, **changes}, "tiny")
    assert isinstance(model, PixelPredictor)
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def pictures(config: MaskedAutoencoderConfig | PixelConfig, count: int = 5, seed: int = 1) -> dict[str, Tensor]:
    """Random pixels."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, config.channels, *config.image_size)
    return {
        "image": torch.randint(0, 256, size, generator=generator, dtype=torch.uint8),
        "id": torch.arange(count),
        "epoch": torch.zeros(count, dtype=torch.int64),
    }


def normalised(config: MaskedAutoencoderConfig | PixelConfig, image: Tensor) -> Tensor:
    """Pixels as other libraries are given them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return (image / 255 - mean) / std


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Equal to the last bit, names included."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
