"""A minute part of training: sixty steps on sixteen wallpapers, whose hidden patches repeat what is visible."""

import pytest
import torch
from tiny_autoencoder import ARCHITECTURES, TARGETS, pictures, tiny_config
from torch import Tensor

from mmssl.nn import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder


def wallpapers(model: MaskedAutoencoder, count: int = 16) -> dict[str, Tensor]:
    """Each picture repeats a 4 x 4 tile of noise: nothing that interpolation could find, everything for a network."""
    tile = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pictures(model.config, count) | {"image": tile.repeat(1, 1, 4, 6)}


def learn(architecture: str, target: str, steps: int = 60) -> tuple[MaskedAutoencoder, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = MaskedAutoencoder(
        tiny_config(
            architecture=architecture,
            target=target,
            patch_size=(4, 4),
            mask_fraction=0.5,
            decoded_fraction=0.5,
            encoder=TransformerConfig(dim=64, depth=2, heads=4, mlp_dim=128),
            decoder=TransformerConfig(dim=48, depth=1, heads=4, mlp_dim=96),
        )
    )
    batch = wallpapers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(steps):
        loss = model.train()(batch | {"epoch": torch.full_like(batch["epoch"], step)})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("target", TARGETS)
def test_sixty_steps_beat_the_mean_colour_and_interpolation(architecture, target):
    model, batch = learn(architecture, target)
    outcome = model(batch)
    assert outcome["skill"] > 0.9
    assert outcome["skill_interpolation"] > 0.9


def test_what_was_learned_can_be_seen():
    model, batch = learn("mae", "pixels")
    shown = model.reveal(batch)
    hidden = shown["hidden"].expand_as(shown["original"]) > 0
    error = (shown["composite"] - shown["original"])[hidden].abs().mean()
    assert error < 0.2 * (shown["original"][hidden] - 0.5).abs().mean()


def test_learning_is_reproducible():
    first, batch = learn("cross_mae", "normalized_pixels", steps=5)
    second, _ = learn("cross_mae", "normalized_pixels", steps=5)
    assert torch.equal(first(batch)["loss"], second(batch)["loss"])
