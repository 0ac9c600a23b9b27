"""Sizes, shapes and settings of a masked autoencoder: which work, and which are refused."""

import pytest
import torch
from tiny_autoencoder import ARCHITECTURES, pictures, tiny_config, tiny_model

from mmssl.errors import UserError
from mmssl.nn import TransformerConfig
from mmssl.predictors.masked_autoencoder import PRESETS, MaskedAutoencoder


@pytest.mark.parametrize(
    ("image_size", "patch_size", "channels"),
    [((8, 8), (4, 4), 1), ((16, 24), (4, 8), 3), ((12, 8), (2, 4), 4), ((10, 6), (5, 3), 6), ((4, 40), (4, 4), 3)],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_size_shape_and_number_of_channels(image_size, patch_size, channels, architecture):
    model = tiny_model(
        image_size=image_size, patch_size=patch_size, channels=channels, architecture=architecture,
        mean=tuple(0.1 * n for n in range(1, channels + 1)), std=(0.3,), decoded_fraction=0.5,
    )  # fmt: skip
    batch = pictures(model.config)
    assert model(batch)["loss"].isfinite()
    shown = model.reveal(batch)
    assert {value.shape for name, value in shown.items() if name != "hidden"} == {batch["image"].shape}
    assert shown["hidden"].shape == (4, 1, *image_size)
    assert model.encode_clean(batch)["mean"].shape == (4, 16)


@pytest.mark.parametrize("shape", [(1, 16, 24), (3, 24, 16), (3, 16, 16)])
def test_pictures_of_another_shape_are_refused(shape):
    model = tiny_model()
    batch = pictures(model.config) | {"image": torch.zeros(4, *shape, dtype=torch.uint8)}
    for act in (model, model.encode_clean, model.reveal):
        with pytest.raises(UserError, match=r"this model takes \(3, 16, 24\)"):
            act(batch)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"patch_size": (5, 8)}, "patch size 5x8 does not divide image size 16x24"),
        ({"mask_fraction": 0.0}, "mask_fraction must be between 0 and 1"),
        ({"mask_fraction": 1.0}, "mask_fraction must be between 0 and 1"),
        ({"mask_fraction": -0.5}, "mask_fraction must be between 0 and 1"),
        ({"mask_fraction": 75}, "mask_fraction must be between 0 and 1"),
        ({"mask_fraction": float("nan")}, "mask_fraction must be between 0 and 1"),
        ({"mask_fraction": 0.95}, "0.95 of 12 tokens leaves nothing visible"),
        ({"image_size": (4, 8)}, "leaves nothing visible"),
        ({"decoded_fraction": 0.0}, "decoded_fraction must be above 0"),
        ({"decoded_fraction": 1.1}, "decoded_fraction must be above 0"),
        ({"architecture": "cross_mae", "decoded_fraction": 0.01}, "0.01 of 9 hidden patches is none"),
        ({"mean": (0.1, 0.2)}, "mean needs 1 or 3 numbers, got 2"),
        ({"std": ()}, "std needs 1 or 3 numbers, got 0"),
        ({"std": (0.1, 0.0, 0.1)}, "std must be positive.*choose fewer channels"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"channels": 1, "mean": (0.5,), "std": (0.5,), "patch_size": (1, 1)}, "a patch of one value"),
    ],
)
def test_impossible_settings_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny_config(**change)


def test_positions_that_the_width_cannot_hold_are_refused():
    with pytest.raises(UserError, match="divisible by 4, got 10"):
        MaskedAutoencoder(tiny_config(decoder=TransformerConfig(dim=10, depth=1, heads=2, mlp_dim=8)))


def test_depths_of_parameters_follow_the_encoder():
    model = tiny_model(positions="learned")
    depths = model.parameter_depths()
    assert depths.keys() == {
        name for name, _ in model.named_parameters()
        if name.startswith(("patch_embedding", "cls_token", "encoder.")) or name == "position"
    }  # fmt: skip
    assert {depths[name] for name in depths if "blocks" not in name and "norm" not in name} == {0}
    assert {name.split(".")[2]: depth for name, depth in depths.items() if "blocks" in name} == {"0": 1, "1": 2}
    assert depths["encoder.norm.weight"] == 3


def test_the_base_preset_is_mae():
    """111,907,840 with the two fixed position tables: facebook/vit-mae-base."""
    encoder, decoder = PRESETS["base"]
    with torch.device("meta"):
        model = MaskedAutoencoder(
            tiny_config(image_size=(224, 224), patch_size=(16, 16), encoder=encoder, decoder=decoder)
        )
    tables = 197 * (encoder.dim + decoder.dim)
    assert sum(parameter.numel() for parameter in model.parameters()) + tables == 111_907_840
