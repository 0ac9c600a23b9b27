"""Parity with timm's VisionTransformer, in both directions, on random weights."""

import json
from pathlib import Path

import pytest
import torch
from interchange_tiny import normalised, pictures, randomise, same_weights, tiny_config, tiny_model
from torch import nn

from mmssl.errors import UserError
from mmssl.interchange import adapt_config, export, load_initial_weights
from mmssl.interchange.vit.checkpoint import read_checkpoint
from mmssl.nn.patches import resize_positions
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder

timm = pytest.importorskip("timm")
VIT = "vit_tiny_patch16_224"
SMALL = {"img_size": (16, 16), "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0}
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)


def save(folder: Path, name: str = VIT, seed: int = 7, **arguments):
    """A model of timm with random weights, saved as timm saves models for the hub."""
    model = timm.create_model(name, **{"num_classes": 0, **SMALL, **arguments}).eval()
    randomise(model, seed)
    model.pretrained_cfg |= {"mean": MEAN, "std": STD}
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def their_tokens(model, image):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        return model.forward_features((image / 255 - mean) / std)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": (8, 24), "patch_size": (4, 6), "channels": 1},
        {"channels": 4, "architecture": "cross_mae"},
        {"architecture": "simmim", "positions": "learned", "mean": (0.4,), "std": (0.3,)},
        {"encoder": TransformerConfig(dim=24, depth=1, heads=3, mlp_dim=41)},
    ],
)
@torch.no_grad()
def test_our_model_there_has_the_same_features(tmp_path, changes):
    model = tiny_model(**changes)
    model.save(tmp_path / "run/model")
    report = export(tmp_path / "run", "timm", tmp_path / "out")
    assert report["max_difference"] < 1e-5
    assert json.loads((tmp_path / "out/parity.json").read_text()) == report
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    batch = pictures(model.config)
    features, inputs = model.encode_clean(batch), normalised(model.config, batch["image"])
    tokens = theirs.forward_features(inputs)
    torch.testing.assert_close(tokens[:, 1:].mean(1), features["mean"], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens[:, 0], features["cls"], rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs(inputs), features["mean"], rtol=0, atol=1e-5)
    pooled = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, global_pool="token").eval()
    torch.testing.assert_close(pooled(inputs), features["cls"], rtol=0, atol=1e-5)
    # a head on top is new, and the encoder below it still ours
    classifier = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7).eval()
    assert classifier(inputs).shape == (5, 7)
    torch.testing.assert_close(classifier.forward_features(inputs), tokens, rtol=0, atol=0)


def test_our_preprocessing_there(tmp_path):
    from PIL import Image

    model = tiny_model()
    model.save(tmp_path / "run/model")
    export(tmp_path / "run", "timm", tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    settings = timm.data.resolve_model_data_config(theirs)
    assert (settings["input_size"], settings["crop_pct"]) == ((3, 16, 16), 1.0)
    transform = timm.data.create_transform(**settings, is_training=False)
    image = pictures(model.config)["image"]
    inputs = torch.stack([transform(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in image])
    torch.testing.assert_close(inputs, normalised(model.config, image), rtol=0, atol=1e-6)


def test_round_trip_is_identical_to_the_last_bit(tmp_path):
    model = tiny_model(seed=5, positions="learned")
    model.save(tmp_path / "run/model")
    export(tmp_path / "run", "timm", tmp_path / "out")
    back = MaskedAutoencoder(adapt_config(model.config, tmp_path / "out"))
    assert back.config == model.config
    assert load_initial_weights(back, tmp_path / "out").endswith("new: the decoder (there is none)")
    assert same_weights(back.encoder, model.encoder)
    assert same_weights(back.patch_embedding, model.patch_embedding)
    assert torch.equal(back.cls_token, model.cls_token)
    assert torch.equal(back.position, model.position)


def test_another_norm_epsilon_is_said_and_kept(tmp_path, capsys):
    model = tiny_model(encoder=TransformerConfig(dim=24, depth=2, heads=2, mlp_dim=40, norm_epsilon=1e-2))
    model.save(tmp_path / "run/model")
    report = export(tmp_path / "run", "timm", tmp_path / "out")
    assert report["max_difference"] < 1e-5
    assert "left out of the call, features differ by" in capsys.readouterr().out
    batch = pictures(model.config)
    inputs = normalised(model.config, batch["image"])
    ours = model.encode_clean(batch)["mean"]
    scope: dict = {}
    exec("\n".join(report["load"]), scope)  # the lines that the user is given
    torch.testing.assert_close(scope["model"].eval()(inputs), ours, rtol=0, atol=1e-5)
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert (plain(inputs) - ours).abs().max() > 1e-3


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"img_size": (8, 24), "patch_size": (4, 6), "in_chans": 3},
        {"init_values": 0.1},
        {"no_embed_class": True},
        {"qkv_bias": False},
        {"num_classes": 10},
        {"act_layer": "gelu"},
        {"name": "beit3_base_patch16_224", "scale_attn_norm": False, "scale_mlp_norm": False, "global_pool": "token"},
    ],
)
def test_their_model_here_has_the_same_features(tmp_path, arguments):
    """Also where its inputs are normalised with other statistics than this data's."""
    theirs = save(tmp_path / "timm", **arguments)
    size = arguments.get("img_size", (16, 16))
    config = adapt_config(tiny_config(image_size=size, mask_fraction=0.5), tmp_path / "timm")
    assert (config.mean, config.positions) == (tiny_config().mean, "learned")
    assert config.encoder.norm_epsilon == (1e-5 if "name" in arguments else 1e-6)
    ours = MaskedAutoencoder(config).eval()
    assert "pixel scale changed" in load_initial_weights(ours, tmp_path / "timm")
    batch = pictures(config)
    tokens = their_tokens(theirs, batch["image"])
    features = ours.encode_clean(batch)
    torch.testing.assert_close(features["mean"], tokens[:, 1:].mean(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(features["cls"], tokens[:, 0], rtol=0, atol=2e-5)


def test_norm_after_pooling_leaves_the_last_norm_new(tmp_path):
    theirs = save(tmp_path / "timm", global_pool="avg")
    ours = MaskedAutoencoder(adapt_config(tiny_config(), tmp_path / "timm")).eval()
    said = load_initial_weights(ours, tmp_path / "timm")
    assert said.endswith("new: the encoder's last norm and the decoder (there is none)")
    ours.encoder.norm = nn.Identity()
    batch = pictures(tiny_config())
    features = ours.encode_clean(batch)["mean"]
    torch.testing.assert_close(features, their_tokens(theirs, batch["image"])[:, 1:].mean(1), rtol=0, atol=2e-5)


def test_learned_positions_are_resized_from_the_grid_that_timm_names(tmp_path):
    theirs = save(tmp_path / "timm", img_size=(8, 32))  # 2 x 8 = 16: the root would mislead
    ours = MaskedAutoencoder(adapt_config(tiny_config(image_size=(16, 16)), tmp_path / "timm"))
    assert "positions resized from 2x8 to 4x4 patches" in load_initial_weights(ours, tmp_path / "timm")
    table = theirs.pos_embed[0, 1:].detach()
    assert torch.equal(ours.position, resize_positions(table, (2, 8), (4, 4)))


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (VIT, {"reg_tokens": 4}, "register tokens"),
        (VIT, {"class_token": False, "global_pool": "avg"}, "has no class token"),
        (VIT, {"pos_embed": "none"}, "has no positions"),
        (VIT, {"qk_norm": True}, "norms of query and key"),
        (VIT, {"act_layer": "quick_gelu"}, "only exact gelu"),
        (VIT, {"act_layer": "gelu_tanh"}, "only exact gelu"),
        (VIT, {"pre_norm": True}, "lacks the tensor 'patch_embed.proj.bias'"),
        ("deit_tiny_distilled_patch16_224", {}, "a distillation token"),
    ],
)
def test_models_that_our_trunk_cannot_represent_are_named(tmp_path, name, arguments, sentence):
    save(tmp_path / "timm", name, **arguments)
    with pytest.raises(UserError, match=sentence):
        read_checkpoint(tmp_path / "timm")


def test_other_architectures_of_timm_are_refused(tmp_path):
    folder = tmp_path / "resnet"
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=0), folder, safe_serialization=True)
    with pytest.raises(UserError, match="resnet is a test_resnet: --init reads plain vision transformers only"):
        read_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "vit_of_tomorrow"}))
    with pytest.raises(UserError, match=r"describes no model that timm .* can build"):
        read_checkpoint(folder)


def test_config_of_another_size_is_refused(tmp_path):
    save(tmp_path / "timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    config["model_args"]["img_size"] = [32, 32]
    (tmp_path / "timm/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json says 8x8 patches, the weights hold 16 positions"):
        read_checkpoint(tmp_path / "timm")


def test_a_difference_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    tiny_model().save(tmp_path / "run/model")
    monkeypatch.setattr("mmssl.interchange.write.TOLERANCE", 0.0)
    with pytest.raises(UserError, match=r"the VisionTransformer made from .* differs from it by"):
        export(tmp_path / "run", "timm", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_bare_file_is_read_and_what_is_assumed_is_said(tmp_path):
    """It says neither its heads nor its grid."""
    model = tiny_model(positions="learned")
    model.save(tmp_path / "run/model")
    export(tmp_path / "run", "timm", tmp_path / "out")
    (tmp_path / "out/config.json").unlink()
    file = tmp_path / "out/model.safetensors"
    back = MaskedAutoencoder(adapt_config(model.config, file)).eval()
    said = load_initial_weights(back, file)
    assert "2 heads are an assumption" in said
    assert "does not say its mean and standard deviation" in said
    batch = pictures(model.config)
    assert torch.equal(back.encode_clean(batch)["cls"], model.encode_clean(batch)["cls"])
    with pytest.raises(UserError, match="does not say how its 16 positions lie"):
        adapt_config(tiny_config(image_size=(8, 16)), file)
    with pytest.raises(UserError, match="does not say how many heads its 24 dimensions"):
        adapt_config(tiny_config(encoder=TransformerConfig(dim=16, depth=1, heads=1, mlp_dim=8)), file)
