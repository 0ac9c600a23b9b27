"""Masked autoencoders and batches of a size at which everything takes milliseconds."""

import torch
from torch import Tensor, nn

from mmssl.nn import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

ARCHITECTURES = ("mae", "cross_mae", "simmim")
SAMPLERS = ("random", "block", "inverse_block")
TARGETS = ("pixels", "normalized_pixels")


def tiny_config(**changes) -> MaskedAutoencoderConfig:
    """Pictures of 16 x 24 pixels in 4 x 3 patches of 4 x 8, nine of them hidden; nothing square, nothing equal."""
    settings = {
        "image_size": (16, 24),
        "patch_size": (4, 8),
        "encoder": TransformerConfig(dim=16, depth=2, heads=2, mlp_dim=24),
        "decoder": TransformerConfig(dim=12, depth=2, heads=3, mlp_dim=20),
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
    }
    return MaskedAutoencoderConfig(**(settings | changes))


def tiny_model(**changes) -> MaskedAutoencoder:
    """Randomly initialised; biases too, which start at zero and would hide what they do."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(tiny_config(**changes))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def pictures(config: MaskedAutoencoderConfig, count: int = 4, seed: int = 0, epoch: int = 0) -> dict[str, Tensor]:
    """A batch of noise pictures with ids that say nothing about their place in the batch."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (count, config.channels, *config.image_size), generator=generator, dtype=torch.uint8)
    return {"image": image, "id": 100 + 7 * torch.arange(count), "epoch": torch.full((count,), epoch)}


def select(batch: dict[str, Tensor], rows: slice | list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def hidden_pixels(model: MaskedAutoencoder, batch: dict[str, Tensor]) -> Tensor:
    """True for hidden pixels, [batch, 1, height, width], from the patch mask by plain repetition."""
    hidden = model.perturb(batch)["plan"].hidden.view(-1, 1, *model.config.grid)
    height, width = model.config.patch_size
    return hidden.repeat_interleave(height, 2).repeat_interleave(width, 3)


def scrambled(batch: dict[str, Tensor], where: Tensor) -> dict[str, Tensor]:
    """The batch with other noise in the pixels that ``where`` marks."""
    noise = torch.randint(0, 256, batch["image"].shape, generator=torch.Generator().manual_seed(99), dtype=torch.uint8)
    return batch | {"image": torch.where(where, noise, batch["image"])}
