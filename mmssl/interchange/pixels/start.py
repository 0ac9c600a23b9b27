"""Starting a task on pixels from trained weights: a trunk from any of pictures, a model of timm from its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mmssl.interchange.pixels.hole import join_hole
from mmssl.interchange.pixels.timm_weights import (
    Statistics,
    fitted,
    published,
    published_statistics,
    read_timm,
)
from mmssl.interchange.vit.checkpoint import BACKBONE, read_checkpoint
from mmssl.interchange.vit.start import adapt_encoder, encoder_weights
from mmssl.interchange.weights import Weights, load_strictly
from mmssl.nn.backbones import TimmBackbone
from mmssl.predictors import PREDICTORS
from mmssl.predictors.pixels import PixelConfig, PixelPredictor

Config = TypeVar("Config", bound=PixelConfig)


def adapt_pixel_config(config: Config, where: str | Path | None, keep_patch_size: bool = False) -> Config:
    """The config, changed so that the weights in ``where`` fit: trunk shapes, norm epsilon, patch size, positions.

    What the data and the flags decide stays, as in :func:`mmssl.interchange.vit.start.adapt_config`. Mean and standard
    deviation are the weights' own for a model of timm, and for a run of the same task, whose decoder is loaded too:
    convolutions that pad a picture's edges with zeros cannot absorb others exactly, as a patch embedding can.

    ``where``: None for those that timm publishes, see :func:`load_pretrained`; nothing is fetched for it here.
    ``keep_patch_size``: the user has asked for this patch size; weights of another one are an error then.

    Raises UserError where the weights are of another kind of backbone, another model of timm, or do not fit the data.
    """
    if where is None:
        return _with_statistics(config, *published_statistics(config))
    if config.encoder is None:
        weights = read_timm(where, config)
        return _with_statistics(config, weights.mean, weights.std)
    source = read_checkpoint(where)
    adapted = adapt_encoder(source, config, keep_patch_size)
    same_task = PREDICTORS.get(source.architecture or "", ("",))[-1] == type(config).__name__
    return _with_statistics(adapted, source.mean, source.std) if same_task else adapted


def _with_statistics(config: Config, mean: Statistics, std: Statistics) -> Config:
    """Those of colour pictures, averaged, are the nearest to what grey ones need."""
    if mean is None or std is None:
        return config
    if config.channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return replace(config, mean=mean, std=std) if {len(mean), len(std)} <= {1, config.channels} else config


def load_initial_pixel_weights(predictor: PixelPredictor, where: str | Path) -> str:
    """Load trained weights into a predictor; returns a line that says what was loaded and what was left as it was.

    The backbone is always loaded whole; the decoder where it is of the same task, shape and pixel scale. The channel of
    the hole begins with zeros, unless it is of the same task and pixel scale: tasks put different things into a hole.
    Positions and the pixel scale of a trunk are treated as
    :func:`mmssl.interchange.vit.start.load_initial_weights` does.

    Raises UserError where weights and model do not fit, saying what to set; :func:`adapt_pixel_config` sets it.
    """
    config, backbone = predictor.config, predictor.network.backbone
    if isinstance(backbone, TimmBackbone):
        found = read_timm(where, config)
        same_scale = _same_scale(config, found.mean, found.std)
        hole_known = found.predictor == predictor.name and same_scale
        backbone.model.load_state_dict(fitted(found, config, has_hole(predictor), hole_known))
        said, new = [config.timm_model], []
        if not same_scale:
            said.append("the pictures of these weights had another mean and standard deviation, or do not say")
        kind, task, decoder, without = found.kind, found.predictor, found.decoder_weights, "there is none"
    else:
        source = read_checkpoint(where)
        weights, scale, said, new = encoder_weights(source, config)
        same_scale = scale is None
        hole_known = source.architecture == predictor.name and same_scale
        if has_hole(predictor):
            pixels, hole = config.patch_size[0] * config.patch_size[1], source.hole if hole_known else None
            weights["patch_embedding.weight"] = join_hole(weights["patch_embedding.weight"], hole, pixels)
        load_strictly(source.path, backbone, weights, ["encoder.norm."] if new else [])
        kind, task, decoder, without = source.kind, source.architecture, source.decoder_weights, source.no_decoder
    if has_hole(predictor) and not hole_known:
        new.append("the channel of the hole (zeros)")
    obstacle = _load_decoder(predictor, decoder or {}, task or "", same_scale) if decoder else without
    if obstacle:
        new.append(f"the decoder ({obstacle})")
    else:
        said.append("decoder")
    return _line(f"init {where} ({kind})", said, new)


def load_pretrained(predictor: PixelPredictor) -> str:
    """Load the weights that timm publishes for the predictor's backbone; returns a line that says so.

    timm fetches them, once, and fits them to the number of channels; a channel of the hole begins with zeros.
    Raises UserError where the backbone is none of timm, timm has no weights of it, or they cannot be fetched.
    """
    config, backbone = predictor.config, predictor.network.backbone
    weights, name = published(config, has_hole(predictor))
    assert isinstance(backbone, TimmBackbone)
    backbone.model.load_state_dict(weights)
    said, new = [name], ["the channel of the hole (zeros)"] if has_hole(predictor) else []
    wanted = _with_statistics(config, *published_statistics(config))
    if not _same_scale(config, wanted.mean, wanted.std):
        said.append("the pictures of these weights had another mean and standard deviation")
    return _line("pretrained by timm", said, [*new, "the decoder (there is none)"])


def has_hole(predictor: PixelPredictor) -> bool:
    """Whether the network is told where a hole is."""
    return predictor.network.channels > predictor.config.channels


def _line(start: str, said: Sequence[str], new: Sequence[str]) -> str:
    return f"{start}: {', '.join(said)}" + (f"; new: {' and '.join(new)}" if new else "")


def _same_scale(config: PixelConfig, mean: Statistics, std: Statistics) -> bool:
    def spread(values: Statistics) -> Statistics:
        return values * config.channels if values is not None and len(values) == 1 else values

    return (spread(mean), spread(std)) == (spread(config.mean), spread(config.std))


def _load_decoder(predictor: PixelPredictor, weights: Weights, task: str, same_scale: bool) -> str:
    """Load everything but the backbone; or say why that cannot be."""
    if task != predictor.name:
        return f"it is of {task}"
    own = {name: tensor.shape for name, tensor in predictor.state_dict().items() if not name.startswith(BACKBONE)}
    if own != {name: tensor.shape for name, tensor in weights.items()}:
        return "it is of another shape"
    if not same_scale:
        return "its pictures had another mean and standard deviation"
    predictor.load_state_dict(weights, strict=False)
    return ""
