"""Starting from a trained encoder of recordings: the config of the model fitted to it, and its weights."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mmssl.errors import UserError
from mmssl.interchange.trunk import check_trunk
from mmssl.interchange.wav2vec2.checkpoint import AudioCheckpoint, read_audio_checkpoint
from mmssl.interchange.weights import load_strictly
from mmssl.nn import MelConfig
from mmssl.predictors.best_rq import BestRQ, BestRQConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2, Wav2Vec2Config

Config = TypeVar("Config", Wav2Vec2Config, BestRQConfig)

_HEADS = {
    Wav2Vec2Config: ("quantizer.", "project_hidden.", "project_code."),
    BestRQConfig: ("head.", "random_projection", "codes", "marginal", "repeats"),
}
_HEAD_SETTINGS = {
    Wav2Vec2Config: ("quantizer", "projection_dim", "quantizer_dropout", "cepstra"),
    BestRQConfig: ("codebooks", "codebook_size", "codebook_dim", "cepstra"),
}


def _same_task(config: Wav2Vec2Config | BestRQConfig, source: AudioCheckpoint) -> bool:
    return source.head is not None and type(source.config) is type(config)


def adapt_audio_config(config: Config, where: str | Path) -> Config:
    """The config, changed so that the weights in ``where`` fit: front end, trunk, dropout, sample rate, codebook.

    What the flags decide stays: masks, negatives, weights of losses, temperatures. From a model of the other task, or
    one without a quantizer, the encoder alone is taken over.

    Raises UserError for whatever :func:`mmssl.interchange.wav2vec2.checkpoint.read_audio_checkpoint` refuses, and
    where the task cannot work on the front end of these weights.
    """
    source = read_audio_checkpoint(where)
    encoder = source.config.encoder
    # convolutions of the waveform have no spectrogram that could vary
    spectral = {} if isinstance(encoder.front_end, MelConfig) else {"variation": 0.0, "cepstra": 0}
    adapted = replace(config, encoder=encoder, **spectral)
    if not _same_task(config, source):
        return adapted
    return replace(adapted, **{name: getattr(source.config, name) for name in _HEAD_SETTINGS[type(config)]})


def load_initial_audio_weights(predictor: Wav2Vec2 | BestRQ, where: str | Path) -> str:
    """Load trained weights into a predictor; returns a line that says what was loaded and what was left as it was.

    The encoder is always loaded whole; the quantizer and the projections where there are some, for BEST-RQ its
    codebooks too. The count of training batches, which the quantizer's temperature follows, begins anew.

    Raises UserError where weights and model do not fit, saying what to set; :func:`adapt_audio_config` sets it.
    """
    source, config = read_audio_checkpoint(where), predictor.config
    check_trunk(source.path, source.config.encoder.trunk, config.encoder.trunk)
    for name in ("front_end", "sample_rate", "position_kernel", "position_groups"):
        theirs, ours = getattr(source.config.encoder, name), getattr(config.encoder, name)
        if theirs != ours:
            raise UserError(f"{source.path} has a {name} of {theirs}, this model of {ours}: set it to that of {where}")
    trunk = config.encoder.trunk
    said = f"init {where} ({source.kind}): encoder {trunk.depth} x {trunk.dim}"
    if not _same_task(config, source):
        load_strictly(source.path, predictor, source.weights, ("updates", *_HEADS[type(config)]))
        return f"{said}; new: the rest (there is none)" if source.head is None else f"{said}; new: the rest"
    for name in _HEAD_SETTINGS[type(config)][:-1]:
        theirs, ours = getattr(source.config, name), getattr(config, name)
        if theirs != ours:
            raise UserError(f"{source.path} has a {name} of {theirs}, this model of {ours}: set it to {theirs}")
    assert source.head is not None
    load_strictly(source.path, predictor, source.weights | source.head, ("updates",))
    return f"{said}, {'quantizer' if isinstance(predictor, Wav2Vec2) else 'codebooks'}"
