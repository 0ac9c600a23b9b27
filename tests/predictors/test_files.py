"""Weights and config on disk: identical on return, no pickle, and one clear sentence for whatever is wrong."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_autoencoder import ARCHITECTURES, TARGETS, pictures, tiny_config, tiny_model

from mmssl.errors import UserError
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_a_saved_predictor_returns_identical(tmp_path, architecture, target, positions):
    model = tiny_model(
        architecture=architecture, target=target, positions=positions, sampler="block", mask_fraction=0.6,
        mean=(0.123456789, 1 / 3, 0.5),
    )  # fmt: skip
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = load_predictor(tmp_path)
    assert isinstance(again, MaskedAutoencoder)
    assert again.config == model.config
    assert not again.training
    batch = pictures(model.config)
    for ours, theirs in ((model.eval()(batch), again(batch)), (model.encode_clean(batch), again.encode_clean(batch))):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_folder_loads_like_its_model_folder(tmp_path):
    model = tiny_model()
    model.save(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text("{}")
    for folder in (tmp_path / "run", str(tmp_path / "run"), tmp_path / "run" / "model"):
        weights = load_predictor(folder).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_saving_again_replaces(tmp_path):
    tiny_model().save(tmp_path)
    model = tiny_model(mask_fraction=0.5)
    with torch.no_grad():
        model.cls_token.fill_(3.0)
    model.save(tmp_path)
    again = load_predictor(tmp_path)
    assert isinstance(again, MaskedAutoencoder)
    assert again.config.mask_fraction == 0.5
    assert (again.cls_token == 3).all()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_without_a_model_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=rf"{folder} holds no trained model"):
            load_predictor(folder)


@pytest.mark.parametrize("size", [0, 5, 100, 5000, -1])
def test_weights_cut_at_any_place_are_named(saved, size):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.safetensors is cut or damaged .*: use an earlier copy"):
        load_predictor(saved)


def test_missing_weights_are_named(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        load_predictor(saved)


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(saved, tmp_path):
    (saved / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "touched")))
    with pytest.raises(UserError, match="cut or damaged"):
        load_predictor(saved)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "simmim"},
        {"positions": "learned"},
        {"channels": 1, "mean": (0.5,), "std": (0.5,)},
        {"encoder": replace(tiny_config().encoder, depth=3)},
        {"encoder": replace(tiny_config().encoder, depth=1)},
    ],
    ids=["architecture", "positions", "channels", "deeper", "shallower"],
)
def test_weights_of_another_model_are_refused(saved, tmp_path, change):
    tiny_model(**change).save(tmp_path / "other")
    (saved / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"holds another model than this config describes \(first difference: "):
        load_predictor(saved)


def edit(saved: Path, **changes: object) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask_fractoin": 0.5}, r"config\.json: unknown key 'mask_fractoin'; did you mean 'mask_fraction'\?"),
        ({"architecture": "cros_mae"}, r"architecture: 'cros_mae' is not a choice; did you mean 'cross_mae'\?"),
        ({"predictor": "masked_autoencodr"}, "predictor 'masked_autoencodr' is unknown"),
        ({"predictor": None}, "predictor 'None' is unknown; known are masked_autoencoder"),
        ({"predictor": ["a"]}, "is unknown; known are masked_autoencoder"),
        ({"encoder": {"dim": 8}}, r"config\.json\.encoder: key 'depth' is missing"),
        ({"encoder": "large"}, "encoder: 'large' is not a table"),
        ({"image_size": 16}, "image_size: 16 is not"),
        ({"patch_size": [5, 5]}, "does not divide"),
        ({"mask_fraction": 1.0}, "mask_fraction must be between 0 and 1"),
    ],
)
def test_a_config_that_does_not_fit_is_named(saved, changes, sentence):
    edit(saved, **changes)
    with pytest.raises(UserError, match=sentence):
        load_predictor(saved)


def test_a_damaged_config_is_named(saved):
    (saved / "config.json").write_text('{"predictor": "masked_autoenc')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_predictor(saved)
