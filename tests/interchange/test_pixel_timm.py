"""Tasks on pixels with a model of timm as their backbone: out to timm and in from timm, weights published there too."""

import json
from dataclasses import replace

import pytest
import torch
from interchange_tiny import PIXEL_TASKS, normalised, pictures, randomise, same_weights, tiny_model, tiny_pixels
from safetensors.torch import save_file

from mmssl.errors import UserError
from mmssl.interchange import adapt_pixel_config, export, load_initial_pixel_weights, load_pretrained
from mmssl.interchange.pixels.hole import split_hole
from mmssl.interchange.pixels.timm_weights import first_layers

timm = pytest.importorskip("timm")
RESNET = "test_resnet"
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)


def run_of(folder, task, name=RESNET, **changes):
    model = tiny_pixels(task, timm_model=name, **changes)
    model.save(folder / "model")
    return model


def theirs_at(folder, name=RESNET, seed=7, **arguments):
    """A model of timm with random weights, saved as timm saves models for the hub."""
    model = timm.create_model(name, **arguments).eval()
    randomise(model, seed)
    model.pretrained_cfg |= {"mean": MEAN, "std": STD}
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def deepest(model, inputs):
    return model.forward_intermediates(inputs, norm=True, intermediates_only=True)[-1].mean((2, 3))


def holes(model, name="conv1.0"):
    return split_hole(model.network.backbone.model.get_parameter(f"{name}.weight"), 3)[1]


@pytest.mark.parametrize(
    ("task", "name"),
    [*((task, RESNET) for task in PIXEL_TASKS), ("inpainting", "test_vit"), ("restoration", "test_convnext"),
     ("inpainting", "test_efficientnet")],
)  # fmt: skip
@torch.no_grad()
def test_timm_loads_what_was_written_and_has_the_same_features(tmp_path, task, name):
    model = run_of(tmp_path / "run", task, name)
    report = export(tmp_path / "run", "timm", tmp_path / "out")
    assert report["format"] == name
    assert report["max_difference"] < 1e-5
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert type(theirs) is type(model.network.backbone.model)
    settings = timm.data.resolve_model_data_config(theirs)
    assert settings["mean"] == pytest.approx(model.config.mean)
    assert settings["input_size"] == (3, 64, 64)
    batch = pictures(model.config)
    if task != "colorization":
        inputs = normalised(model.config, batch["image"])
        torch.testing.assert_close(deepest(theirs, inputs), model.encode_clean(batch)["mean"], rtol=0, atol=2e-5)
    else:
        assert "lightness" in report["note"]
        config = json.loads((tmp_path / "out/config.json").read_text())
        assert "lightness" in config["pretrained_cfg"]["notes"][0]
    classifier = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=5)
    assert classifier(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_timm_loads_the_file_under_its_own_name(tmp_path):
    model = run_of(tmp_path / "run", "super_resolution")
    export(tmp_path / "run", "timm", tmp_path / "out")
    theirs = timm.create_model(RESNET, num_classes=0, checkpoint_path=str(tmp_path / "out/model.safetensors"))
    assert same_weights(theirs, model.network.backbone.model)


def test_parts_behind_the_maps_are_said_to_be_untrained(tmp_path):
    run_of(tmp_path / "efficientnet", "super_resolution", "test_efficientnet")
    report = export(tmp_path / "efficientnet", "timm", tmp_path / "out")
    assert "not trained, because these maps come before it: bn2, conv_head" in report["note"]
    run_of(tmp_path / "resnet", "super_resolution")
    assert "not trained" not in export(tmp_path / "resnet", "timm", tmp_path / "other")["note"]


def test_transformers_has_no_class_for_it(tmp_path):
    run_of(tmp_path / "run", "inpainting")
    with pytest.raises(UserError, match="timm's test_resnet, for which transformers has no class of its own: use --to"):
        export(tmp_path / "run", "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["folder", "file"])
@torch.no_grad()
def test_weights_of_timm_start_a_task(tmp_path, form):
    """Its classifier is dropped; the hole begins at zero, so whole pictures look the same."""
    theirs = theirs_at(tmp_path / "timm")
    where, statistics = tmp_path / "timm", {}
    if form == "file":  # it says no statistics
        where, statistics = (
            (where / "model.safetensors").rename(tmp_path / "bare.safetensors"),
            {"mean": MEAN, "std": STD},
        )
    first = tiny_pixels("inpainting", timm_model=RESNET, **statistics)
    model = type(first)(adapt_pixel_config(first.config, where)).eval()
    assert (model.config.mean, model.config.std) == (MEAN, STD)
    said = load_initial_pixel_weights(model, where)
    assert said.endswith("new: the channel of the hole (zeros) and the decoder (there is none)")
    batch = pictures(model.config)
    inputs = normalised(model.config, batch["image"])
    torch.testing.assert_close(model.encode_clean(batch)["mean"], deepest(theirs, inputs), rtol=0, atol=1e-5)
    assert not holes(model).any()


def test_a_run_of_the_same_task_is_taken_over_whole(tmp_path):
    for task in ("inpainting", "colorization"):
        model = run_of(tmp_path / task, task)
        first = tiny_pixels(task, seed=9, timm_model=RESNET, mean=(0.1,), std=(0.6,))
        back = type(first)(adapt_pixel_config(first.config, tmp_path / task))
        said = load_initial_pixel_weights(back, tmp_path / task)
        assert said == f"init {tmp_path / task} (mmssl {task}): {RESNET}, decoder"
        assert same_weights(back, model)
    # another task: the backbone alone, and no channel of a hole that means something else there
    other = tiny_pixels("restoration", seed=9, timm_model=RESNET)
    said = load_initial_pixel_weights(other, tmp_path / "inpainting")
    assert said.endswith("new: the channel of the hole (zeros) and the decoder (it is of inpainting)")
    assert not holes(other).any()
    known = tiny_pixels("inpainting", timm_model=RESNET)
    assert same_weights(other.network.backbone.model.layer4, known.network.backbone.model.layer4)
    plain = tiny_pixels("colorization", seed=9, timm_model=RESNET)
    load_initial_pixel_weights(plain, tmp_path / "inpainting")
    assert torch.equal(
        plain.network.backbone.model.get_parameter("conv1.0.weight"),
        known.network.backbone.model.get_parameter("conv1.0.weight")[:, :3],
    )


def test_the_model_must_be_the_same(tmp_path):
    theirs_at(tmp_path / "timm", "test_efficientnet")
    run_of(tmp_path / "run", "inpainting", "test_convnext")
    tiny_model().save(tmp_path / "mae/model")
    model = tiny_pixels("inpainting", timm_model=RESNET)
    with pytest.raises(UserError, match="is timm's test_efficientnet, this model's backbone is timm's test_resnet"):
        load_initial_pixel_weights(model, tmp_path / "timm")
    with pytest.raises(UserError, match="is timm's test_convnext, this model's backbone is timm's test_resnet"):
        adapt_pixel_config(model.config, tmp_path / "run")
    with pytest.raises(UserError, match="is a masked_autoencoder with another backbone than timm's test_resnet"):
        adapt_pixel_config(model.config, tmp_path / "mae")
    with pytest.raises(UserError, match=r"does not fit timm's test_resnet for 3 channels \(Error\(s\) in loading"):
        load_initial_pixel_weights(model, (tmp_path / "timm/model.safetensors").rename(tmp_path / "bare.safetensors"))
    with pytest.raises(UserError, match="test_convnext for its backbone, not our trunk: it starts tasks on pixels of"):
        adapt_pixel_config(tiny_pixels("inpainting").config, tmp_path / "run")


def test_nothing_is_left_out_in_silence(tmp_path):
    theirs = theirs_at(tmp_path / "timm").state_dict()
    model = tiny_pixels("inpainting", timm_model=RESNET)
    del theirs["layer1.0.bn1.weight"]
    save_file(theirs, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"does not fit .*layer1\.0\.bn1\.weight"):
        load_initial_pixel_weights(model, tmp_path / "cut.safetensors")
    theirs_at(tmp_path / "grey", in_chans=1)
    with pytest.raises(UserError, match="takes 1 channels, this model 3: set channels to 1"):
        load_initial_pixel_weights(model, tmp_path / "grey/model.safetensors")


def test_the_first_layer_is_found_in_any_model():
    config = tiny_pixels("inpainting", timm_model=RESNET).config
    found = {name: first_layers(replace(config, timm_model=name)) for name in (RESNET, "test_vit", "test_convnext")}
    assert list(found.values()) == [{"conv1.0.weight": 1}, {"patch_embed.proj.weight": 1}, {"stem.0.weight": 1}]
    with pytest.raises(UserError, match=r"test_nfnet mixes its input channels in 'stem.conv1.weight' so that the"):
        first_layers(replace(config, timm_model="test_nfnet"))


@pytest.mark.parametrize("channels", [3, 1])
def test_published_weights_are_loaded_by_timm(tmp_path, monkeypatch, channels):
    """From a local file in place of the network."""
    theirs = theirs_at(tmp_path / "timm")
    usual = timm.create_model

    def patched(name, pretrained=False, **settings):
        overlay = {"file": str(tmp_path / "timm/model.safetensors")} if pretrained else None
        return usual(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **settings)

    monkeypatch.setattr("timm.create_model", patched)
    mean = {"mean": (0.3,), "std": (0.2,), "channels": channels}
    first = tiny_pixels("inpainting", timm_model=f"{RESNET}.r160_in1k", **mean)
    assert "another mean and standard deviation" in load_pretrained(first)
    model = type(first)(adapt_pixel_config(first.config, None)).eval()
    assert model.config.mean == pytest.approx((0.5,) * channels)
    said = load_pretrained(model)
    assert said.startswith(
        "pretrained by timm: test_resnet.r160_in1k; new: the channel of the hole (zeros) and the decoder"
    )
    batch = pictures(model.config)
    inputs = normalised(model.config, batch["image"])
    inputs = inputs if channels == 3 else inputs.expand(-1, 3, -1, -1)  # timm sums the weights of red, green and blue
    with torch.no_grad():
        expected = deepest(theirs, inputs)
        torch.testing.assert_close(model.encode_clean(batch)["mean"], expected, rtol=1e-5, atol=2e-5)
    first_layer = model.network.backbone.model.get_parameter("conv1.0.weight")
    assert not first_layer[:, channels:].any()


def test_without_a_network_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_pretrained(tiny_pixels("inpainting", timm_model=RESNET))
    assert str(caught.value).startswith("timm's published weights of test_resnet could not be loaded (")
    assert str(caught.value).endswith(
        "go online once, give a folder that holds them as --init, or leave --pretrained out"
    )
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"timm has no weights 'resnet18.a9_in1k': it has .*resnet18\.a1_in1k"):
        tiny_pixels("inpainting", timm_model="resnet18.a9_in1k")
