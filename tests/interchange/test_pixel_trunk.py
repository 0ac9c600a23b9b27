"""Tasks on pixels with our trunk: to timm and transformers, and from any encoder of pictures."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from interchange_tiny import PIXEL_TASKS, normalised, pictures, same_weights, tiny_config, tiny_model, tiny_pixels

from mmssl.errors import UserError
from mmssl.interchange import (
    adapt_config,
    adapt_pixel_config,
    export,
    load_initial_pixel_weights,
    load_initial_weights,
    load_pretrained,
)
from mmssl.interchange.pixels.hole import join_hole, split_hole
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder

OTHER = TransformerConfig(dim=8, depth=1, heads=1, mlp_dim=8, drop_path=0.1)
HOLED = ("inpainting", "restoration")


def run_of(folder, task, **changes):
    model = tiny_pixels(task, **changes)
    model.save(folder / "model")
    return model


def started(task, where, **changes):
    """A model that was fitted to weights and started from them, and what was said."""
    first = tiny_pixels(task, seed=9, **changes)
    model = type(first)(adapt_pixel_config(first.config, where)).eval()
    return model, load_initial_pixel_weights(model, where)


def seen_there(task, image):
    """What a user gives another library: the pictures, or grey ones of their lightness, from scikit-image."""
    if task != "colorization":
        return image
    skimage = pytest.importorskip("skimage.color")
    lightness = skimage.rgb2lab(image.permute(0, 2, 3, 1).double().numpy() / 255)[..., 0]
    return torch.from_numpy(lightness).float()[:, None].expand_as(image) * 2.55


def test_the_channel_of_a_hole_is_the_last_of_each_pixel():
    weight = torch.arange(2 * 3 * 4.0).view(2, 12)  # 3 pixels of 3 colours and a hole
    rest, hole = split_hole(weight, 3, 3)
    assert rest[0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert hole is not None
    assert hole[0].tolist() == [3, 7, 11]
    assert torch.equal(join_hole(rest, hole, 3), weight)
    assert split_hole(rest, 3, 3)[1] is None
    assert split_hole(join_hole(rest, None, 3), 3, 3)[1].abs().max() == 0
    conv = torch.randn(5, 4, 3, 3)
    assert torch.equal(split_hole(conv, 3)[0], conv[:, :3])
    assert torch.equal(join_hole(*split_hole(conv, 3)), conv)


@pytest.mark.parametrize("task", PIXEL_TASKS)
@torch.no_grad()
def test_our_trunk_in_timm_has_the_same_features(tmp_path, task):
    timm = pytest.importorskip("timm")
    model = run_of(tmp_path / "run", task)
    report = export(tmp_path / "run", "timm", tmp_path / "out")
    assert report["max_difference"] < 1e-5
    assert ("lightness" in report["note"]) == (task == "colorization")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    batch = pictures(model.config)
    tokens = theirs.forward_features(normalised(model.config, seen_there(task, batch["image"])))
    features = model.encode_clean(batch)
    torch.testing.assert_close(tokens[:, 1:].mean(1), features["mean"], rtol=0, atol=2e-5)
    torch.testing.assert_close(tokens[:, 0], features["cls"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("task", PIXEL_TASKS)
@torch.no_grad()
def test_our_trunk_in_transformers_has_the_same_features(tmp_path, task):
    transformers = pytest.importorskip("transformers")
    changes = {"positions": "learned", "image_size": (8, 24)} if task == "inpainting" else {}
    model = run_of(tmp_path / "run", task, **changes)
    report = export(tmp_path / "run", "transformers", tmp_path / "out")
    assert report["format"] == "ViTModel"
    assert report["max_difference"] < 1e-5
    assert f"encoder only, because transformers has no {task} decoder" in report["note"]
    theirs = transformers.ViTModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    batch = pictures(model.config)
    tokens = theirs(normalised(model.config, seen_there(task, batch["image"]))).last_hidden_state
    torch.testing.assert_close(tokens[:, 1:].mean(1), model.encode_clean(batch)["mean"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_a_run_of_the_same_task_is_taken_over_whole(tmp_path, task):
    """Its scale of pixels too."""
    model = run_of(tmp_path / "run", task, positions="learned" if task == "restoration" else "sincos")
    back, said = started(task, tmp_path / "run", encoder=asdict(OTHER), patch_size=(8, 8), mean=(0.1,), std=(0.6,))
    assert back.config == replace(model.config, encoder=replace(model.config.encoder, drop_path=0.1))
    assert said == f"init {tmp_path / 'run'} (mmssl {task}): encoder 3 x 24, decoder"
    assert same_weights(back, model)


@pytest.mark.parametrize("kind", ["masked_autoencoder", "timm", "transformers"])
@torch.no_grad()
def test_any_encoder_of_pictures_starts_a_task(tmp_path, kind):
    """With positions of its own, and pictures that were normalised otherwise: whole pictures look the same to both."""
    source = tiny_model(positions="learned")
    source.save(tmp_path / "run/model")
    where = tmp_path / "run"
    if kind != "masked_autoencoder":
        pytest.importorskip(kind)
        where = tmp_path / kind
        export(tmp_path / "run", kind, where)
    model, said = started("inpainting", where, mean=(0.6, 0.5, 0.2), std=(0.4, 0.1, 0.3))
    assert (model.config.positions, model.config.mean) == ("learned", (0.6, 0.5, 0.2))
    assert "encoder 3 x 24, pixel scale changed" in said
    assert "new: the channel of the hole (zeros) and the decoder" in said
    batch = pictures(source.config)
    for name, value in source.encode_clean(batch).items():
        torch.testing.assert_close(model.encode_clean(batch)[name], value, rtol=0, atol=1e-5)
    hole = split_hole(model.network.backbone.patch_embedding.weight, 3, 16)[1]
    assert hole is not None
    assert not hole.any()
    assert not model.network.decoder.head.weight.any()  # as it is initialised


@pytest.mark.parametrize("task", PIXEL_TASKS)
@torch.no_grad()
def test_a_masked_autoencoder_starts_from_a_task(tmp_path, task):
    source = run_of(tmp_path / "run", task)
    config = adapt_config(tiny_config(encoder=OTHER, patch_size=(8, 8)), tmp_path / "run")
    assert (config.positions, config.patch_size) == ("sincos", (4, 4))
    model = MaskedAutoencoder(config).eval()
    assert load_initial_weights(model, tmp_path / "run").endswith(f"new: the decoder (it is of {task})")
    assert same_weights(model.encoder, source.network.backbone.encoder)
    if task in HOLED:
        batch = pictures(config)
        for name, value in source.encode_clean(batch).items():
            torch.testing.assert_close(model.encode_clean(batch)[name], value, rtol=0, atol=1e-5)


@torch.no_grad()
def test_another_task_with_a_hole_begins_without_it(tmp_path):
    """Restoration puts nothing into a hole, inpainting a smooth filling: they do not mean the same."""
    source = run_of(tmp_path / "run", "inpainting")
    model, said = started("restoration", tmp_path / "run", mean=(0.6, 0.5, 0.2), std=(0.4, 0.1, 0.3))
    assert said.endswith("new: the channel of the hole (zeros) and the decoder (it is of inpainting)")
    batch = pictures(source.config)
    for name, value in source.encode_clean(batch).items():
        torch.testing.assert_close(model.encode_clean(batch)[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"decoder_dim": 4}, "the decoder (it is of another shape)"),
        (
            {"mean": (0.5,)},
            "the channel of the hole (zeros) and the decoder (its pictures had another mean and standard deviation)",
        ),
    ],
)
def test_a_decoder_that_does_not_fit_stays_new(tmp_path, changes, why):
    run_of(tmp_path / "run", "inpainting")
    model = tiny_pixels("inpainting", seed=9, **changes)
    before = model.network.decoder.head.weight.clone()
    assert load_initial_pixel_weights(model, tmp_path / "run").endswith(f"new: {why}")
    assert torch.equal(model.network.decoder.head.weight, before)


def test_super_resolution_trains_on_small_pictures_and_shows_whole_ones(tmp_path):
    """Exported for whole pictures, on whose grid its positions are read at finer steps; started from its own grid."""
    pytest.importorskip("timm")
    run_of(tmp_path / "run", "super_resolution")
    export(tmp_path / "run", "timm", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_args"]["img_size"] == [16, 16]
    plain = tiny_pixels("inpainting", image_size=(8, 8)).config
    assert adapt_pixel_config(plain, tmp_path / "run").positions == "sincos"
    assert adapt_pixel_config(plain, tmp_path / "out").positions == "learned"


def test_learned_positions_are_kept_and_resized(tmp_path):
    source = run_of(tmp_path / "run", "inpainting", positions="learned")
    back = load_predictor(tmp_path / "run")
    assert torch.equal(back.network.backbone.position, source.network.backbone.position)
    same = source.restore(torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.bool))
    assert same.shape == (1, 3, 16, 16)
    assert source.restore(torch.rand(1, 3, 24, 8), torch.ones(1, 1, 24, 8, dtype=torch.bool)).shape == (1, 3, 24, 8)
    _, said = started("inpainting", tmp_path / "run", image_size=(8, 24))
    assert "positions resized from 4x4 to 2x6 patches, decoder" in said


def test_what_does_not_fit_is_refused(tmp_path):
    run_of(tmp_path / "run", "inpainting")
    with pytest.raises(UserError, match="cuts patches of 4x4, this model of 8x8"):
        load_initial_pixel_weights(tiny_pixels("inpainting", patch_size=(8, 8)), tmp_path / "run")
    config = tiny_pixels("inpainting", patch_size=(8, 8)).config
    with pytest.raises(UserError, match="cuts patches of 4x4, asked for are 8x8: leave --patch-size out"):
        adapt_pixel_config(config, tmp_path / "run", keep_patch_size=True)
    with pytest.raises(UserError, match="set channels to 3"):
        adapt_pixel_config(tiny_pixels("inpainting", channels=1, mean=(0.5,), std=(0.2,)).config, tmp_path / "run")
    with pytest.raises(UserError, match="--pretrained is for models of timm, and this one has our trunk"):
        load_pretrained(tiny_pixels("inpainting"))
    run_of(tmp_path / "post", "inpainting", encoder={"dim": 24, "depth": 1, "heads": 2, "mlp_dim": 40, "norm": "post"})
    with pytest.raises(UserError, match="has norms after its blocks"):
        export(tmp_path / "post", "timm", tmp_path / "out")
