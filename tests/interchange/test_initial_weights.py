"""Starting from trained weights: our own runs, what is refused, and the sentences that say so."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interchange_tiny import normalised, pictures, same_weights, tiny_config, tiny_model

from mmssl.errors import UserError
from mmssl.interchange import adapt_config, export, load_initial_weights
from mmssl.interchange.vit.checkpoint import read_checkpoint
from mmssl.interchange.vit.names import conv_from_linear, linear_from_conv
from mmssl.interchange.vit.parity import noise_of, probe_batch
from mmssl.nn.patches import patchify, resize_positions
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder


def run_of(folder: Path, **changes) -> MaskedAutoencoder:
    model = tiny_model(**changes)
    model.save(folder / "model")
    return model


def test_patch_embedding_as_convolution_does_the_same():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 4, 12, 10, generator=generator)
    weight = torch.randn(7, 4 * 3 * 5, generator=generator)
    conv = conv_from_linear(weight, (3, 5))
    there = torch.nn.functional.conv2d(image, conv, stride=(3, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(image, (3, 5)) @ weight.T, there, rtol=0, atol=1e-4)
    assert torch.equal(linear_from_conv(conv), weight)


def test_noise_hides_what_it_says():
    hidden = torch.rand(50, 37, generator=torch.Generator().manual_seed(0)) < 0.6
    order = noise_of(hidden).argsort(1)
    for row, ids in zip(hidden, order, strict=True):
        visible = int((~row).sum())
        assert ids[:visible].tolist() == (~row).nonzero().flatten().tolist()
        assert ids[visible:].tolist() == row.nonzero().flatten().tolist()


def test_probe_batch_is_the_same_every_time():
    config = tiny_config(channels=4)
    assert torch.equal(probe_batch(config)["image"], probe_batch(config)["image"])
    assert probe_batch(config)["image"].shape == (4, 4, 16, 16)


@pytest.mark.parametrize("architecture", ["mae", "cross_mae", "simmim"])
@pytest.mark.parametrize("place", ["", "model"])
def test_our_own_run_is_taken_over_whole(tmp_path, architecture, place):
    model = run_of(tmp_path / "run", seed=3, architecture=architecture, positions="learned")
    other = TransformerConfig(dim=8, depth=1, heads=1, mlp_dim=8, drop_path=0.1)
    start = tiny_config(architecture=architecture, encoder=other, decoder=other, patch_size=(8, 8))
    config = adapt_config(start, tmp_path / "run" / place)
    assert config.encoder.drop_path == 0.1
    back = MaskedAutoencoder(config)
    said = load_initial_weights(back, tmp_path / "run" / place)
    assert "(mmssl)" in said
    assert "new:" not in said
    assert same_weights(back, model)


def test_positions_keep_their_kind(tmp_path):
    run_of(tmp_path / "fixed")
    run_of(tmp_path / "learned", positions="learned")
    assert adapt_config(tiny_config(), tmp_path / "fixed").positions == "sincos"
    assert adapt_config(tiny_config(positions="learned"), tmp_path / "fixed").positions == "learned"
    assert adapt_config(tiny_config(), tmp_path / "learned").positions == "learned"


def test_fixed_positions_become_learned_ones_where_asked(tmp_path):
    model = run_of(tmp_path / "fixed")
    back = tiny_model(seed=9, positions="learned")
    load_initial_weights(back, tmp_path / "fixed")
    assert torch.equal(back.position, model.position)
    wide = tiny_model(seed=9, positions="learned", image_size=(8, 24))
    load_initial_weights(wide, tmp_path / "fixed")
    assert torch.equal(wide.position, tiny_model(image_size=(8, 24)).position)


def test_learned_positions_are_resized_by_rows_and_columns(tmp_path):
    model = run_of(tmp_path / "run", positions="learned", image_size=(8, 32))
    back = MaskedAutoencoder(adapt_config(tiny_config(), tmp_path / "run"))
    assert "positions resized from 2x8 to 4x4 patches" in load_initial_weights(back, tmp_path / "run")
    assert torch.equal(back.position, resize_positions(model.position, (2, 8), (4, 4)))


@pytest.mark.parametrize("target", ["pixels", "normalized_pixels"])
@torch.no_grad()
def test_other_statistics_are_absorbed_exactly(tmp_path, target):
    """The same pictures, normalised in two ways, give the same features and the same predicted colours."""
    first = run_of(tmp_path / "run", target=target)
    config = tiny_config(target=target, mean=(0.6, 0.5, 0.2), std=(0.4, 0.1, 0.3))
    second = MaskedAutoencoder(adapt_config(config, tmp_path / "run")).eval()
    assert (second.config.mean, second.config.std) == (config.mean, config.std)
    assert "pixel scale changed" in load_initial_weights(second, tmp_path / "run")
    batch = pictures(config)
    assert not torch.allclose(normalised(first.config, batch["image"]), normalised(config, batch["image"]), atol=0.1)
    for name, value in first.encode_clean(batch).items():
        torch.testing.assert_close(second.encode_clean(batch)[name], value, rtol=0, atol=1e-5)
    if target == "pixels":
        views = [model.perturb(batch) for model in (first, second)]
        colours = [
            model.predict(model.encode(view), view) * model.pixel_std + model.pixel_mean
            for model, view in zip((first, second), views, strict=True)
        ]
        torch.testing.assert_close(colours[0], colours[1], rtol=0, atol=1e-5)


def test_one_number_for_all_channels_counts_as_the_same(tmp_path):
    run_of(tmp_path / "run", mean=(0.4,), std=(0.3,))
    back = tiny_model(seed=8, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
    assert "pixel scale" not in load_initial_weights(back, tmp_path / "run")


def test_decoder_of_another_objective_is_said(tmp_path):
    run_of(tmp_path / "run", target="pixels")
    assert "the decoder was trained for pixels" in load_initial_weights(tiny_model(), tmp_path / "run")
    other = tiny_model(decoder=TransformerConfig(dim=16, depth=1, heads=4, mlp_dim=28))
    assert load_initial_weights(other, tmp_path / "run").endswith("new: the decoder (it is of another shape)")


REFUSED = [
    ({"patch_size": (8, 8)}, "cuts patches of 4x4, this model of 8x8: set patch_size to (4, 4)"),
    ({"channels": 1, "mean": (0.5,), "std": (0.2,)}, "takes 3 channels, this model 1: set channels to 3"),
    (
        {"encoder": TransformerConfig(dim=24, depth=2, heads=2, mlp_dim=40)},
        "has an encoder of depth 3, this model 2: set it to 3",
    ),
    (
        {"encoder": TransformerConfig(dim=24, depth=3, heads=3, mlp_dim=40)},
        "has an encoder of heads 2, this model 3: set it to 2",
    ),
    (
        {"encoder": TransformerConfig(dim=24, depth=3, heads=2, mlp_dim=40, norm_epsilon=1e-12)},
        "has an encoder of norm_epsilon 1e-06, this model 1e-12: set it to 1e-06",
    ),
    ({}, "has learned positions, this model fixed ones: set positions to 'learned'"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_models_that_do_not_fit_are_refused(tmp_path, changes, sentence):
    run_of(tmp_path / "run", positions="learned")
    with pytest.raises(UserError) as caught:
        load_initial_weights(tiny_model(**changes), tmp_path / "run")
    assert sentence in str(caught.value)


def test_flags_that_were_given_are_not_overruled(tmp_path):
    run_of(tmp_path / "run")
    with pytest.raises(UserError, match="run cuts patches of 4x4, asked for are 8x8: leave --patch-size out"):
        adapt_config(tiny_config(patch_size=(8, 8)), tmp_path / "run", keep_patch_size=True)
    assert adapt_config(tiny_config(), tmp_path / "run", keep_patch_size=True).patch_size == (4, 4)
    with pytest.raises(UserError, match="patch size 4x4 does not divide image size 18x18"):
        adapt_config(tiny_config(image_size=(18, 18), patch_size=(9, 9)), tmp_path / "run")
    with pytest.raises(UserError, match="set channels to 3"):
        adapt_config(tiny_config(channels=1), tmp_path / "run")


def test_what_is_not_there(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"runs/fotos does not exist: give a run, a timm or transformers folder, or a"):
        read_checkpoint(tmp_path / "runs/fotos")
    with pytest.raises(UserError, match=r"runs holds no model\.safetensors: give a run"):
        read_checkpoint(tmp_path / "runs")
    (tmp_path / "runs/checkpoints").mkdir()
    with pytest.raises(UserError, match="is a run that has saved no model yet"):
        read_checkpoint(tmp_path / "runs")


def test_a_mistyped_run_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(UserError, match="runs/fotos does not exist"):
        read_checkpoint("runs/fotos")


def test_pickles_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit_mae"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match=r"only as pytorch_model\.bin, a pickle.*save it as safetensors"):
        read_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"pytorch_model\.bin is not a \.safetensors file"):
        read_checkpoint(tmp_path / "pytorch_model.bin")


def test_damaged_and_foreign_folders(tmp_path):
    model = run_of(tmp_path / "run")
    file = tmp_path / "run/model/model.safetensors"
    config = tmp_path / "run/model/config.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is cut or damaged"):
        read_checkpoint(tmp_path / "run")
    file.write_bytes(whole)
    text = config.read_text()
    config.write_text(text.replace('"depth": 3', '"depth": 4'))
    with pytest.raises(UserError, match=r"do not belong together \(first difference: encoder\.blocks\.3"):
        load_initial_weights(MaskedAutoencoder(adapt_config(model.config, tmp_path / "run")), tmp_path / "run")
    config.write_text(text.replace("masked_autoencoder", "masked_text"))
    with pytest.raises(UserError, match="is a masked_text, not an image encoder"):
        read_checkpoint(tmp_path / "run")
    config.write_text("{}")
    with pytest.raises(UserError, match="is none of mmssl, transformers or timm"):
        read_checkpoint(tmp_path / "run")
    config.unlink()
    (tmp_path / "run/model").rename(tmp_path / "loose")
    with pytest.raises(UserError, match=r"loose has no config\.json beside its weights"):
        read_checkpoint(tmp_path / "loose")
    with pytest.raises(UserError, match=r"holds no timm ViT: put the config\.json that belongs to it"):
        read_checkpoint(tmp_path / "loose/model.safetensors")
    (tmp_path / "loose/second.safetensors").write_bytes(whole)
    (tmp_path / "loose/model.safetensors").rename(tmp_path / "loose/first.safetensors")
    with pytest.raises(UserError, match="holds 2 safetensors files: give the path of one"):
        read_checkpoint(tmp_path / "loose")


def test_transformers_config_is_checked_without_transformers(tmp_path):
    run_of(tmp_path / "run")
    (tmp_path / "run/model/config.json").write_text('{"model_type": "deit"}')
    with pytest.raises(UserError, match="is a transformers 'deit' model: --init reads 'vit_mae' and 'vit'"):
        read_checkpoint(tmp_path / "run")
    (tmp_path / "run/model/config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"lacks the tensor 'embeddings\.cls_token'"):
        read_checkpoint(tmp_path / "run")


def test_a_model_that_diverged_is_not_handed_over(tmp_path):
    pytest.importorskip("timm")
    model = tiny_model()
    model.encoder.norm.bias.data[3] = float("nan")
    model.save(tmp_path / "run/model")
    with pytest.raises(UserError, match="that are not finite"):
        export(tmp_path / "run", "timm", tmp_path / "out")


def test_export_into_an_empty_folder_that_is_there(tmp_path):
    pytest.importorskip("timm")
    run_of(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to("elsewhere", target_is_directory=True)
    export(tmp_path / "run/model", "timm", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "parity.json",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out", "run"]


def test_export_refuses_before_it_writes(tmp_path):
    run_of(tmp_path / "run")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"full is not empty: choose another --out"):
        export(tmp_path / "run", "timm", full)
    with pytest.raises(UserError, match=r"thesis\.txt is not empty"):
        export(tmp_path / "run", "timm", full / "thesis.txt")
    with pytest.raises(UserError, match="holds no trained model"):
        export(tmp_path / "nothing", "timm", tmp_path / "out")
    run_of(tmp_path / "post", encoder=TransformerConfig(dim=24, depth=1, heads=2, mlp_dim=40, norm="post"))
    with pytest.raises(UserError, match="has norms after its blocks"):
        export(tmp_path / "post", "timm", tmp_path / "out")
    assert [path.name for path in full.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "out").exists()


OFFLINE = """
from mmssl.errors import UserError
from mmssl.interchange import adapt_config, export, load_initial_weights
import sys
assert not {"transformers", "timm", "torchvision"} & set(sys.modules), "heavy imports at the start"
from mmssl.interchange.vit.checkpoint import read_checkpoint
try:
    read_checkpoint("facebook/vit-mae-base")
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub")
def test_hub_names_without_a_network(tmp_path):
    """In a process of its own: the hub's address is read once, at import. Port 9 discards; nobody listens there."""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        "facebook/vit-mae-base is no folder here and could not be fetched from Hugging Face"
    )
    assert "go online, or copy the model's files to a folder and give that" in result.stdout
    assert len(result.stdout.splitlines()) == 1
