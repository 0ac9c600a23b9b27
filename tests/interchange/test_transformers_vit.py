"""Parity with transformers' ViT-MAE and ViT, in both directions, on random weights."""

import json
from pathlib import Path

import pytest
import torch
from interchange_tiny import DECODER, normalised, pictures, randomise, same_weights, tiny_config, tiny_model
from torch import Tensor

from mmssl.errors import UserError
from mmssl.interchange import adapt_config, export, load_initial_weights
from mmssl.interchange.vit.checkpoint import read_checkpoint
from mmssl.interchange.vit.names import TRANSFORMERS, decoder_to, encoder_to, published_names
from mmssl.interchange.vit.parity import noise_of
from mmssl.nn.patches import resize_positions
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def their_mae(config: MaskedAutoencoderConfig, **changes):
    """ViTMAEForPreTraining of the same shape with random weights."""
    encoder, decoder = config.encoder, config.decoder
    settings = {
        "hidden_size": encoder.dim, "num_hidden_layers": encoder.depth, "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim, "decoder_hidden_size": decoder.dim,
        "decoder_num_hidden_layers": decoder.depth, "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp_dim, "image_size": config.image_size[0],
        "patch_size": config.patch_size[0], "num_channels": config.channels, "mask_ratio": config.mask_fraction,
        "norm_pix_loss": config.target == "normalized_pixels",
    }  # fmt: skip
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**settings | changes))
    randomise(model, seed=3)
    # transformers 5.23 leaves the fixed tables of a model built from scratch at zero; published weights have them
    for table, dim in (
        (model.vit.embeddings.position_embeddings, encoder.dim),
        (model.decoder.decoder_pos_embed, decoder.dim),
    ):
        table.copy_(published_positions(config.grid, dim))
    return model.eval()


def published_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """The table that transformers' own code means to put there."""
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    row, column = build_2d_sinusoidal_position_embedding(*grid, embed_dim=dim, cls_token=True).chunk(2, -1)
    return torch.cat([column, row], -1)


def their_vit(config: MaskedAutoencoderConfig, kind: str = "ViTModel", **changes):
    """A ViT of the same encoder shape with random weights."""
    encoder = config.encoder
    settings = {
        "hidden_size": encoder.dim, "num_hidden_layers": encoder.depth, "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim, "image_size": list(config.image_size),
        "patch_size": list(config.patch_size), "num_channels": config.channels,
    }  # fmt: skip
    model = getattr(transformers, kind)(transformers.ViTConfig(**settings | changes))
    randomise(model, seed=4)
    return model.eval()


def save_with_statistics(model, folder: Path, config: MaskedAutoencoderConfig) -> Path:
    """The model and the mean and standard deviation that its inputs are normalised with."""
    model.save_pretrained(folder)
    statistics = {"image_mean": list(config.mean), "image_std": list(config.std), "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return folder


def loss_there(model, predictor: MaskedAutoencoder, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss and mask of ViTMAEForPreTraining when it hides what our predictor hides."""
    hidden = predictor.perturb(batch)["plan"].hidden
    outcome = model(normalised(predictor.config, batch["image"]), noise=noise_of(hidden))
    return outcome.loss, outcome.mask.bool()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("target", ["normalized_pixels", "pixels"])
@pytest.mark.parametrize(("channels", "mask_fraction", "sampler"), [(3, 0.75, "random"), (1, 0.6, "block")])
def test_our_model_there_has_the_same_mask_loss_and_gradients(tmp_path, target, channels, mask_fraction, sampler):
    model = tiny_model(target=target, channels=channels, mask_fraction=mask_fraction, sampler=sampler)
    model.save(tmp_path / "run/model")
    report = export(tmp_path / "run", "transformers", tmp_path / "out")
    assert report["format"] == "ViTMAEForPreTraining"
    assert report["max_difference"] < 1e-5
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "out")
    model.train()
    model.seed = 11
    batch = pictures(model.config)
    ours = model(batch)["loss"]
    loss, mask = loss_there(theirs, model, batch)
    assert torch.equal(mask, model.perturb(batch)["plan"].hidden)
    assert abs(ours - loss).item() < 1e-5
    ours.backward()
    loss.backward()
    own, other = gradients(model), published_names(gradients(theirs))
    size, width = model.config.patch_size, model.config.encoder.dim
    renamed = encoder_to(TRANSFORMERS, own, torch.zeros(16, width), size) | decoder_to(own, torch.zeros(17, 16))
    compared = 0
    for name, gradient in other.items():
        if "pos" not in name:
            torch.testing.assert_close(renamed[name], gradient, rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared == len(renamed) - 2


@pytest.mark.parametrize("target", ["normalized_pixels", "pixels"])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-6])
def test_their_model_here_has_the_same_loss_and_features(tmp_path, target, epsilon):
    theirs = their_mae(tiny_config(target=target), layer_norm_eps=epsilon)
    folder = save_with_statistics(theirs, tmp_path / "mae", tiny_config())
    # the recipe's own idea of a model before it looks at what is there
    start = tiny_config(
        patch_size=(8, 8),
        encoder=TransformerConfig(dim=8, depth=1, heads=1, mlp_dim=8, dropout=0.1),
        decoder=TransformerConfig(dim=8, depth=1, heads=1, mlp_dim=8),
        target=target,
    )
    config = adapt_config(start, folder)
    assert (config.patch_size, config.encoder.norm_epsilon, config.encoder.dropout) == ((4, 4), epsilon, 0.1)
    assert config.decoder.dim == DECODER.dim
    assert config.positions == "sincos"
    ours = MaskedAutoencoder(config).eval()
    said = load_initial_weights(ours, folder)
    assert "encoder 3 x 24, decoder" in said
    assert "new:" not in said
    batch = pictures(config)
    loss, _ = loss_there(theirs, ours, batch)
    assert abs(ours(batch)["loss"] - loss).item() < 1e-5
    theirs.config.mask_ratio = 0.0
    tokens = theirs.vit(normalised(config, batch["image"])).last_hidden_state
    features = ours.encode_clean(batch)
    torch.testing.assert_close(features["mean"], tokens[:, 1:].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(features["cls"], tokens[:, 0], rtol=0, atol=1e-5)


def test_round_trip_of_ours_is_identical_to_the_last_bit(tmp_path):
    model = tiny_model(seed=5)
    model.save(tmp_path / "run/model")
    export(tmp_path / "run", "transformers", tmp_path / "out")
    back = MaskedAutoencoder(adapt_config(model.config, tmp_path / "out"))
    assert back.config == model.config
    load_initial_weights(back, tmp_path / "out")
    assert same_weights(back, model)


def test_round_trip_of_theirs_is_identical_to_the_last_bit(tmp_path):
    theirs = their_mae(tiny_config())
    folder = save_with_statistics(theirs, tmp_path / "mae", tiny_config())
    ours = MaskedAutoencoder(adapt_config(tiny_config(), folder)).eval()
    load_initial_weights(ours, folder)
    ours.save(tmp_path / "run/model")
    export(tmp_path / "run", "transformers", tmp_path / "out")
    back = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "out")
    one, two = theirs.state_dict(), back.state_dict()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if "pos" in name:  # computed by two libraries, not handed over
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
        else:
            assert torch.equal(two[name], tensor), name


@pytest.mark.parametrize("architecture", ["mae", "cross_mae", "simmim"])
def test_encoder_alone_where_vit_mae_cannot_represent_the_model(tmp_path, architecture):
    model = tiny_model(image_size=(8, 24), patch_size=(4, 6), channels=4, architecture=architecture)
    model.save(tmp_path / "run/model")
    report = export(tmp_path / "run", "transformers", tmp_path / "out")
    assert report["format"] == "ViTModel"
    assert report["max_difference"] < 1e-5
    assert "encoder only, because" in report["note"]
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    batch = pictures(model.config)
    tokens = theirs(normalised(model.config, batch["image"])).last_hidden_state
    features = model.encode_clean(batch)
    torch.testing.assert_close(features["mean"], tokens[:, 1:].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(features["cls"], tokens[:, 0], rtol=0, atol=1e-5)
    back = MaskedAutoencoder(adapt_config(model.config, tmp_path / "out")).eval()
    said = load_initial_weights(back, tmp_path / "out")
    assert said.endswith(
        "new: the pixel head (there is none)" if architecture == "simmim" else "new: the decoder (there is none)"
    )
    for name, value in back.encode_clean(batch).items():
        assert torch.equal(value, features[name])


def test_one_epsilon_for_both_is_a_reason_to_leave_the_decoder_out(tmp_path):
    model = tiny_model(decoder=TransformerConfig(dim=16, depth=1, heads=4, mlp_dim=28, norm_epsilon=1e-5))
    model.save(tmp_path / "run/model")
    assert "one layer norm epsilon" in export(tmp_path / "run", "transformers", tmp_path / "out")["note"]


def test_auto_classes_and_the_image_processor_load_the_export(tmp_path):
    from PIL import Image

    model = tiny_model()
    model.save(tmp_path / "run/model")
    export(tmp_path / "run", "transformers", tmp_path / "out")
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "out")).__name__ == "ViTMAEModel"
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    batch = pictures(model.config)
    photos = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch["image"]]
    inputs = processor(photos, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(inputs, normalised(model.config, batch["image"]), rtol=0, atol=1e-6)
    assert processor(photos[0].resize((50, 30)), return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)
    # the remedy for masking at inference that the note gives
    encoder = transformers.ViTMAEModel.from_pretrained(tmp_path / "out", mask_ratio=0.0).eval()
    tokens = encoder(inputs).last_hidden_state
    features = model.encode_clean(batch)
    torch.testing.assert_close(features["mean"], tokens[:, 1:].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(features["cls"], tokens[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification", "ViTForMaskedImageModeling"])
def test_plain_vit_here_has_the_same_features(tmp_path, kind):
    config = tiny_config(image_size=(8, 12), mask_fraction=0.5)
    changes = {"patch_size": 4} if kind == "ViTForMaskedImageModeling" else {}
    theirs = their_vit(config, kind, layer_norm_eps=1e-6, qkv_bias=False, encoder_stride=4, **changes)
    folder = save_with_statistics(theirs, tmp_path / "vit", config)
    adapted = adapt_config(config, folder)
    assert adapted.positions == "learned"
    ours = MaskedAutoencoder(adapted).eval()
    assert load_initial_weights(ours, folder).endswith("new: the decoder (there is none)")
    batch = pictures(config)
    encoder = theirs if kind == "ViTModel" else theirs.vit
    tokens = encoder(normalised(config, batch["image"])).last_hidden_state
    features = ours.encode_clean(batch)
    torch.testing.assert_close(features["mean"], tokens[:, 1:].mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(features["cls"], tokens[:, 0], rtol=0, atol=1e-5)


def test_learned_positions_are_resized_from_the_grid_that_the_config_names(tmp_path):
    config = tiny_config(image_size=(8, 32), mask_fraction=0.5)  # 2 x 8 = 16 = 4 x 4 positions: the root would mislead
    theirs = their_vit(config)
    folder = save_with_statistics(theirs, tmp_path / "vit", config)
    ours = MaskedAutoencoder(adapt_config(tiny_config(), folder))
    assert "positions resized from 2x8 to 4x4 patches" in load_initial_weights(ours, folder)
    table = theirs.embeddings.position_embeddings[0, 1:].detach()
    assert torch.equal(ours.position, resize_positions(table, (2, 8), (4, 4)))


def test_fixed_positions_are_computed_for_the_new_grid(tmp_path):
    folder = save_with_statistics(their_mae(tiny_config()), tmp_path / "mae", tiny_config())
    config = adapt_config(tiny_config(image_size=(24, 8)), folder)
    assert (config.positions, config.grid) == ("sincos", (6, 2))
    ours = MaskedAutoencoder(config)
    assert "resized" not in load_initial_weights(ours, folder)


@pytest.mark.parametrize(("architecture", "why"), [("mae", "it is of another shape"), ("cross_mae", "it is of mae")])
def test_decoder_stays_new_where_it_is_another(tmp_path, architecture, why):
    folder = save_with_statistics(their_mae(tiny_config()), tmp_path / "mae", tiny_config())
    other = TransformerConfig(dim=8, depth=2, heads=4, mlp_dim=28, norm_epsilon=1e-12)
    encoder = TransformerConfig(dim=24, depth=3, heads=2, mlp_dim=40, norm_epsilon=1e-12)
    ours = tiny_model(seed=6, architecture=architecture, encoder=encoder, decoder=other)
    before = ours.decoder_embedding.weight.clone()
    assert load_initial_weights(ours, folder).endswith(f"new: the decoder ({why})")
    assert torch.equal(ours.decoder_embedding.weight, before)


def test_decoder_with_other_positions_stays_new(tmp_path):
    theirs = their_mae(tiny_config())
    theirs.decoder.decoder_pos_embed.zero_()
    folder = save_with_statistics(theirs, tmp_path / "mae", tiny_config())
    ours = MaskedAutoencoder(adapt_config(tiny_config(), folder))
    assert load_initial_weights(ours, folder).endswith("new: the decoder (its positions are not MAE's)")


def test_names_of_every_version_are_read(tmp_path):
    theirs = their_mae(tiny_config())
    theirs.save_pretrained(tmp_path / "new", save_original_format=False)
    theirs.save_pretrained(tmp_path / "usual")
    new, usual = read_checkpoint(tmp_path / "new"), read_checkpoint(tmp_path / "usual")
    assert new.weights.keys() == usual.weights.keys()
    assert new.decoder_weights is not None
    assert usual.decoder_weights is not None
    for name in new.weights:
        assert torch.equal(new.weights[name], usual.weights[name])
    for name in new.decoder_weights:
        assert torch.equal(new.decoder_weights[name], usual.decoder_weights[name])


def test_weights_in_several_files_are_joined(tmp_path):
    theirs = their_mae(tiny_config())
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert (tmp_path / "many/model.safetensors.index.json").is_file()
    one, many = read_checkpoint(tmp_path / "one").weights, read_checkpoint(tmp_path / "many").weights
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_other_families_and_activations_are_refused_in_a_sentence(tmp_path):
    their_vit(tiny_config(), hidden_act="relu").save_pretrained(tmp_path / "relu")
    with pytest.raises(UserError, match="activation 'relu': only exact gelu"):
        read_checkpoint(tmp_path / "relu")
    registers = transformers.Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
    )
    transformers.Dinov2WithRegistersModel(registers).save_pretrained(tmp_path / "dino")
    with pytest.raises(UserError, match=r"dino is a transformers 'dinov2_with_registers' model: --init reads"):
        read_checkpoint(tmp_path / "dino")


def test_a_difference_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    tiny_model().save(tmp_path / "run/model")

    def spoiled(*arguments):
        weights = encoder_to(*arguments)
        weights["layernorm.bias"] += 2e-4
        return weights

    monkeypatch.setattr("mmssl.interchange.vit.write.encoder_to", spoiled)
    with pytest.raises(UserError, match=r"differs from it by .*, more than 1e-04, so .* was not written"):
        export(tmp_path / "run", "transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
