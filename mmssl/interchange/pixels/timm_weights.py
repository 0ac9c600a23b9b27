"""Weights for a backbone that is a model of timm, under timm's own names: from a run, a folder of timm's form, a bare
safetensors file, or those that timm publishes. timm itself loads them, and fits positions to the picture size."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.interchange.pixels.hole import join_hole, split_hole
from mmssl.interchange.vit.checkpoint import BACKBONE
from mmssl.interchange.weights import Weights, find_model, no_config, read_weights
from mmssl.nn.backbones import create_timm
from mmssl.predictors import read_config
from mmssl.predictors.pixels import PixelConfig

MODEL = f"{BACKBONE}model."
"""What precedes timm's names in a predictor of pixels."""

Statistics = tuple[float, ...] | None
"""Mean or standard deviation of pictures by channel, on the scale 0..1; None where unknown."""


@dataclass(frozen=True)
class TimmWeights:
    """Weights of a model of timm, perhaps with the decoder that it was trained with."""

    path: Path
    """Where they were read from."""
    kind: str
    """What they are, for people."""
    weights: Weights
    """Under timm's names, with a channel for the hole where it was trained with one."""
    mean: Statistics = None
    """Of the pictures it was trained on."""
    std: Statistics = None
    """Likewise."""
    predictor: str = ""
    """The task that ``decoder_weights`` belong to."""
    decoder_weights: Weights = field(default_factory=dict)
    """Everything of a run that is not its backbone."""


def plain_name(name: str) -> str:
    """A model of timm without the tag of its published weights."""
    return name.split(".")[0]


def read_timm(where: str | Path, config: PixelConfig) -> TimmWeights:
    """Weights of the model ``config.timm_model``. Raises UserError where ``where`` holds none, or of another model."""
    path, folder, file = find_model(where, "AutoModel")
    own = plain_name(config.timm_model)
    if not (folder / "config.json").is_file():
        if path.is_file():
            return TimmWeights(path, "timm names, no config.json", read_weights(file))
        raise no_config(folder)
    data = read_json(folder / "config.json")
    if "predictor" in data:
        return _our_run(path, data, own, file)
    if "architecture" not in data:
        raise UserError(f"{path} is no model of timm, and this model's backbone is timm's {own}: give weights of that")
    _check_name(path, data["architecture"], own)
    told = data.get("pretrained_cfg", data)
    mean, std = (tuple(told[key]) if key in told else None for key in ("mean", "std"))
    return TimmWeights(path, f"timm {data['architecture']}", read_weights(file), mean, std)


def _check_name(path: Path, theirs: str, own: str) -> None:
    if plain_name(theirs) != own:
        raise UserError(f"{path} is timm's {theirs}, this model's backbone is timm's {own}: choose one of the two")


def _our_run(path: Path, data: dict[str, Any], own: str, file: Path) -> TimmWeights:
    predictor, config = read_config(data, f"{path}: config.json")
    if not isinstance(config, PixelConfig) or config.encoder is not None:
        raise UserError(f"{path} is a {predictor.name} with another backbone than timm's {own}: give a run that has it")
    _check_name(path, config.timm_model, own)
    weights = read_weights(file)
    return TimmWeights(
        path=path,
        kind=f"mmssl {predictor.name}",
        weights={name.removeprefix(MODEL): tensor for name, tensor in weights.items() if name.startswith(MODEL)},
        mean=config.mean,
        std=config.std,
        predictor=predictor.name,
        decoder_weights={name: tensor for name, tensor in weights.items() if not name.startswith(MODEL)},
    )


def first_layers(config: PixelConfig) -> dict[str, int]:
    """Names of the weights that touch pixels, found as those that grow with the channels of the pictures; of each, how
    many pixels are flattened into one input.

    Raises UserError for a model to which a channel cannot be added without changing what it computes of the others.
    """
    few, more = (create_timm(config.timm_model, config.input_size, config.channels + extra) for extra in (0, 1))
    layers, grown = {}, more.state_dict()
    for name, tensor in few.state_dict().items():
        if tensor.shape == grown[name].shape:
            continue
        pixels = grown[name].shape[1] - tensor.shape[1] if tensor.ndim > 1 else 0
        # weights that are standardised, or channels that are mixed elsewhere, depend on the channel that comes or goes
        standardised = "Std" in type(few.get_submodule(name.removesuffix(".weight"))).__name__
        if pixels < 1 or tensor.shape[1] != pixels * config.channels or standardised:
            raise UserError(
                f"timm's {plain_name(config.timm_model)} mixes its input channels in '{name}' so that the channel of a "
                "hole can be neither added nor left out: choose another, such as resnet18 or convnext_atto"
            )
        layers[name] = pixels
    return layers


def without_hole(weights: Mapping[str, Tensor], layers: Mapping[str, int], channels: int) -> tuple[Weights, Weights]:
    """Weights as timm's own model has them, and what was left out of them: nothing where there was no hole."""
    plain, holes = dict(weights), {}
    for name, pixels in layers.items():
        if name in plain and plain[name].shape[1] == pixels * (channels + 1):
            plain[name], holes[name] = split_hole(plain[name], channels, pixels)
    return plain, holes


def fitted(source: TimmWeights, config: PixelConfig, hole: bool, hole_known: bool) -> Weights:
    """The weights as timm's model of ``config`` takes them; with a channel for the ``hole``, theirs or zeros.

    Raises UserError where a tensor is missing, left over or of another shape.
    """
    layers = first_layers(config)
    weights, holes = without_hole(source.weights, layers, config.channels)
    for name, pixels in layers.items():
        if name in weights and weights[name].shape[1] != pixels * config.channels:
            theirs = weights[name].shape[1] // pixels
            raise UserError(
                f"{source.path} takes {theirs} channels, this model {config.channels}: set channels to {theirs}"
            )
    model = _load(source, weights, config).state_dict()
    return with_hole(model, layers, holes if hole_known else {}) if hole else model


def with_hole(weights: Weights, layers: Mapping[str, int], holes: Mapping[str, Tensor]) -> Weights:
    """Inverse of :func:`without_hole`; zeros where nothing is known."""
    joined = {name: join_hole(weights[name], holes.get(name), pixels) for name, pixels in layers.items()}
    return weights | joined


def _check_timm(config: PixelConfig) -> None:
    if not config.timm_model:
        raise UserError(
            "--pretrained is for models of timm, and this one has our trunk: give --init, or choose a model of timm"
        )


def published_statistics(config: PixelConfig) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation of the pictures that timm's published weights were trained on; nothing is fetched."""
    _check_timm(config)
    create_timm(config.timm_model, config.input_size, config.channels)  # says what is wrong with the name
    from timm.models import get_pretrained_cfg_value

    mean, std = (get_pretrained_cfg_value(config.timm_model, name) for name in ("mean", "std"))
    return mean and tuple(mean), std and tuple(std)


def published(config: PixelConfig, hole: bool) -> tuple[Weights, str]:
    """Weights that timm publishes of ``config.timm_model``, with the channel of the hole where asked, and their name.

    Raises UserError where there are none, or where they cannot be fetched.
    """
    _check_timm(config)
    layers = first_layers(config) if hole else {}
    try:
        model: Any = create_timm(config.timm_model, config.input_size, config.channels, pretrained=True)
    except (OSError, RuntimeError) as error:  # no network, or no such weights
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"timm's published weights of {config.timm_model} could not be loaded ({reason}): go online once, give a "
            "folder that holds them as --init, or leave --pretrained out"
        ) from None
    tag = model.pretrained_cfg.get("tag")
    name = plain_name(config.timm_model) + (f".{tag}" if tag else "")
    return with_hole(model.state_dict(), layers, {}), name


def _load(source: TimmWeights, weights: Weights, config: PixelConfig) -> Any:
    """timm's model with these weights. Its classifier is dropped, anything else must fit."""
    from timm.models import get_pretrained_cfg_value

    name = plain_name(config.timm_model)
    heads = get_pretrained_cfg_value(name, "classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(heads)}
    # as if published so: no classifier to cut, no channels to convert, no format to translate; then timm is strict
    told = {"state_dict": weights, "num_classes": 0, "first_conv": None, "custom_load": False,
            "input_size": (config.channels, *config.input_size)}  # fmt: skip
    try:
        return create_timm(name, config.input_size, config.channels, pretrained=True, pretrained_cfg_overlay=told)
    except (RuntimeError, KeyError, AttributeError) as error:  # what timm's own translations of names raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source.path} does not fit timm's {name} for {config.channels} channels ({reason}): "
            "give weights that timm saved of this model"
        ) from None
