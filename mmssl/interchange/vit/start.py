"""Starting from trained weights: first the config of the model is fitted to them, then they are loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.errors import UserError
from mmssl.interchange.trunk import SHAPE, check_trunk, taken_over
from mmssl.interchange.vit.checkpoint import Checkpoint, read_checkpoint
from mmssl.interchange.weights import Weights, load_strictly
from mmssl.nn.patches import resize_positions, sincos_positions
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.predictors.pixels import PixelConfig

Config = TypeVar("Config", MaskedAutoencoderConfig, PixelConfig)

_DECODER = ("mask_token", "decoder_embedding.", "memory_norm.", "decoder.", "decoder_norm.", "head.")
"""Names of everything that is not the encoder."""


def adapt_config(
    config: MaskedAutoencoderConfig, where: str | Path, keep_patch_size: bool = False
) -> MaskedAutoencoderConfig:
    """The config, changed so that the weights in ``where`` fit: trunk shapes, norm epsilon, patch size, positions.

    What the data and the flags decide stays: image size, channels, mean and standard deviation, mask, objective,
    dropout. The decoder's shape is taken over where the weights hold a decoder of the same architecture.

    ``keep_patch_size``: the user has asked for this patch size; weights of another one are an error then.

    Raises UserError for that, for other channels, for a patch that does not divide the image, and for whatever
    :func:`mmssl.interchange.vit.checkpoint.read_checkpoint` refuses.
    """
    source = read_checkpoint(where)
    adapted = adapt_encoder(source, config, keep_patch_size)
    if source.decoder is not None and source.architecture == config.architecture != "simmim":
        adapted = replace(adapted, decoder=taken_over(config.decoder, source.decoder))
    return adapted


def adapt_encoder(source: Checkpoint, config: Config, keep_patch_size: bool) -> Config:
    """:func:`adapt_config` for whatever has our trunk as its encoder; ``config`` says the trunk's dropout."""
    _check_channels(source, config)
    if keep_patch_size and source.patch_size != config.patch_size:
        raise UserError(
            f"{source.path} cuts patches of {_size(source.patch_size)}, asked for are {_size(config.patch_size)}: "
            "leave --patch-size out, or choose other weights"
        )
    changes: dict[str, Any] = {"patch_size": source.patch_size, "encoder": _encoder_for(source, config)}
    adapted = replace(config, **changes)
    if config.positions == "sincos" and not source.positions_are_sincos(_grid_of(source, adapted)):
        adapted = replace(adapted, positions="learned")
    return adapted


def _encoder_for(source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig) -> TransformerConfig:
    assert config.encoder is not None  # a model of timm in its place has its own way to start
    encoder = taken_over(config.encoder, source.encoder)
    if source.heads_assumed:
        if all(getattr(encoder, name) == getattr(config.encoder, name) for name in SHAPE if name != "heads"):
            return config.encoder
        if encoder.dim % 64:
            raise UserError(
                f"{source.path} does not say how many heads its {encoder.dim} dimensions are split into: "
                "put the config.json that belongs to it into the same folder"
            )
    return encoder


def _grid_of(source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig) -> tuple[int, int]:
    if source.grid is not None:
        return source.grid
    if source.position.shape[0] == config.grid[0] * config.grid[1]:
        return config.grid
    raise UserError(
        f"{source.path} does not say how its {source.position.shape[0]} positions lie in rows and columns: put the "
        "config.json that belongs to it into the same folder, or choose the image size that it was trained with"
    )


def _check_channels(source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig) -> None:
    if source.channels != config.channels:
        raise UserError(
            f"{source.path} takes {source.channels} channels, this model {config.channels}: "
            f"set channels to {source.channels}"
        )


def load_initial_weights(predictor: MaskedAutoencoder, where: str | Path) -> str:
    """Load trained weights into a predictor; returns a line that says what was loaded and what was left as it was.

    The encoder is always loaded whole; the decoder where it is of the same architecture and shape. Learned positions
    are resized from the source's grid (bicubic), fixed ones belong to the new grid already. Where the source
    normalised its pictures with another mean and standard deviation, the patch embedding (and, for plain pixels, the
    head) absorbs the change, so that the loaded encoder computes from this data's pictures what it did before.

    Raises UserError where weights and model do not fit, saying what to set; :func:`adapt_config` sets it.
    """
    source, config = read_checkpoint(where), predictor.config
    weights, scaled, said, new = encoder_weights(source, config)
    fresh = ["encoder.norm."] if new else []
    part = "decoder" if config.architecture != "simmim" else "pixel head"
    no_decoder = _no_decoder(source, config)
    if no_decoder or source.decoder_weights is None:
        new.append(f"the {part} ({no_decoder})")
        fresh += _DECODER
    else:
        weights |= _head_for(scaled, source, config)
        said.insert(1, part)
    load_strictly(source.path, predictor, weights, fresh)
    if source.heads_assumed:
        said.append(f"{config.encoder.heads} heads are an assumption")
    if not no_decoder and source.target != config.target:
        said.append(f"the decoder was trained for {source.target}")
    return f"init {where} ({source.kind}): {', '.join(said)}" + (f"; new: {' and '.join(new)}" if new else "")


def encoder_weights(
    source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig
) -> tuple[Weights, "Scale | None", list[str], list[str]]:
    """Weights of an encoder of ``config``, without the channel of a hole; the change of pixel scale that they absorb;
    what was loaded; and what was not there. Raises UserError where they do not fit."""
    check_fit(source, config)
    assert config.encoder is not None
    said = [f"encoder {config.encoder.depth} x {config.encoder.dim}"]
    new = [] if "encoder.norm.weight" in source.weights else ["the encoder's last norm"]
    position, resized = _positions(source, config)
    scale = scale_of(source, config)
    weights = {**source.weights, **position}
    if scale is not None:
        weight = weights["patch_embedding.weight"].double()
        weights["patch_embedding.weight"] = (weight * scale.ratio).float()
        weights["patch_embedding.bias"] = (weights["patch_embedding.bias"].double() + weight @ scale.offset).float()
        resized.append("pixel scale changed to this data's mean and standard deviation")
    if source.mean is None or source.std is None:
        resized.append("the source does not say its mean and standard deviation")
    return weights, scale, said + resized, new


def check_fit(source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig) -> None:
    _check_channels(source, config)
    if source.patch_size != config.patch_size:
        raise UserError(
            f"{source.path} cuts patches of {_size(source.patch_size)}, this model of {_size(config.patch_size)}: "
            f"set patch_size to {source.patch_size}"
        )
    assert config.encoder is not None
    check_trunk(source.path, _encoder_for(source, config), config.encoder)
    if config.positions == "sincos" and not source.positions_are_sincos(_grid_of(source, config)):
        raise UserError(f"{source.path} has learned positions, this model fixed ones: set positions to 'learned'")


def _size(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def _no_decoder(source: Checkpoint, config: MaskedAutoencoderConfig) -> str:
    """Why the source's decoder (of SimMIM: its pixel head) cannot be taken over; empty where it can."""
    if source.decoder_weights is None or source.decoder is None:
        return source.no_decoder
    if source.architecture != config.architecture:
        return f"it is of {source.architecture}"
    if config.architecture != "simmim" and taken_over(config.decoder, source.decoder) != config.decoder:
        return "it is of another shape"
    return ""


def _positions(source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig) -> tuple[Weights, list[str]]:
    """The table of learned positions; nothing for fixed ones. And what was done to it."""
    assert config.encoder is not None
    grid = _grid_of(source, config)
    if config.positions == "sincos":
        return {}, []
    if grid == config.grid:
        return {"position": source.position}, []
    if source.positions_are_sincos(grid):
        return {"position": sincos_positions(config.grid, config.encoder.dim)}, []
    resized = resize_positions(source.position, grid, config.grid)
    return {"position": resized}, [f"positions resized from {_size(grid)} to {_size(config.grid)} patches"]


class Scale(NamedTuple):
    """Another mean and standard deviation, for every value of a patch.

    A pixel p enters as (p - m) / s. With m', s' the source's and m, s ours, (p - m') / s' = r * (p - m) / s + o, where
    r = s / s' and o = (m - m') / s'.
    """

    ratio: Float[Tensor, " value"]
    offset: Float[Tensor, " value"]


def scale_of(source: Checkpoint, config: MaskedAutoencoderConfig | PixelConfig) -> Scale | None:
    """What the layers that touch pixels must absorb; None where nothing changes, or the source does not say."""
    if source.mean is None or source.std is None:
        return None

    def per_pixel(values: tuple[float, ...]) -> Tensor:
        by_channel = torch.tensor(values, dtype=torch.float64).expand(config.channels)
        return by_channel.repeat(config.patch_size[0] * config.patch_size[1])

    mean, std, their_mean, their_std = map(per_pixel, (config.mean, config.std, source.mean, source.std))
    if torch.equal(mean, their_mean) and torch.equal(std, their_std):
        return None
    return Scale(std / their_std, (mean - their_mean) / their_std)


def _head_for(scale: Scale | None, source: Checkpoint, config: MaskedAutoencoderConfig) -> Weights:
    """The decoder, its head on our pixel scale where it predicts plain pixels."""
    weights = dict(source.decoder_weights or {})
    if scale is not None and source.target == config.target == "pixels":
        weights["head.weight"] = (weights["head.weight"].double() / scale.ratio[:, None]).float()
        weights["head.bias"] = ((weights["head.bias"].double() - scale.offset) / scale.ratio).float()
    return weights
