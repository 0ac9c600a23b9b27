"""Trained weights of an encoder of recordings in our terms, whether we wrote them or transformers did."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.config import from_dict, read_json
from mmssl.errors import UserError
from mmssl.interchange.wav2vec2.names import encoder_from, head_from, published_names
from mmssl.interchange.weights import Weights, complete, find_model, no_config, read_weights
from mmssl.nn import AudioEncoderConfig, QuantizerConfig, TransformerConfig, WaveformConfig
from mmssl.predictors.best_rq import BestRQConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2Config

LOADER = "Wav2Vec2ForPreTraining"

_DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "hidden_dropout": 0.1, "activation_dropout": 0.1, "attention_dropout": 0.1,
    "feat_proj_dropout": 0.0, "feat_quantizer_dropout": 0.0, "layer_norm_eps": 1e-5, "feat_extract_norm": "group",
    "feat_extract_activation": "gelu", "conv_dim": [512] * 7, "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_bias": False, "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16, "do_stable_layer_norm": False, "num_codevectors_per_group": 320,
    "num_codevector_groups": 2, "codevector_dim": 256, "proj_codevector_dim": 256, "add_adapter": False,
    "adapter_attn_dim": None,
}  # fmt: skip
"""What transformers' Wav2Vec2Config takes for keys that a config.json leaves out."""

_OTHER_HEADS = ("lm_head.", "classifier.", "projector.", "layer_weights")


@dataclass(frozen=True)
class AudioCheckpoint:
    """An encoder of recordings, perhaps with what it was trained to predict with."""

    path: Path
    """Where it was read from."""
    kind: str
    """What it is, for people."""
    weights: Weights
    """The encoder under our names."""
    head: Weights | None
    """The rest under our names; None where there is none."""
    config: Wav2Vec2Config | BestRQConfig
    """A config that these weights fit; of one without a head, only the encoder means something."""


def read_audio_checkpoint(where: str | Path) -> AudioCheckpoint:
    """Read weights of ours or of transformers' wav2vec 2.0; ``where`` as in
    :func:`mmssl.interchange.weights.find_model`.

    Raises UserError where there are no such weights, or where the model has parts that our encoder has not.
    """
    path, folder, file = find_model(where, LOADER)
    if not (folder / "config.json").is_file():
        raise no_config(folder)
    config = read_json(folder / "config.json")
    if "predictor" in config:
        return _our_checkpoint(path, config, read_weights(file))
    if "model_type" in config:
        return _transformers_checkpoint(path, config, folder, read_weights(file))
    raise UserError(f"{folder / 'config.json'} is neither mmssl's nor transformers': give a folder that is")


def _our_checkpoint(path: Path, data: dict[str, Any], weights: Weights) -> AudioCheckpoint:
    kinds = {"wav2vec2": Wav2Vec2Config, "best_rq": BestRQConfig}
    if data["predictor"] not in kinds:
        raise UserError(f"{path} is a {data['predictor']}, not an encoder of recordings: give a {' or '.join(kinds)}")
    settings = {key: value for key, value in data.items() if key != "predictor"}
    return AudioCheckpoint(
        path=path,
        kind="mmssl",
        weights={name: tensor for name, tensor in weights.items() if name.startswith("encoder.")},
        head={
            name: tensor for name, tensor in weights.items() if not name.startswith("encoder.") and name != "updates"
        },
        config=from_dict(kinds[data["predictor"]], settings, f"{path}: config.json"),
    )


def _transformers_checkpoint(path: Path, config: Mapping[str, Any], folder: Path, weights: Weights) -> AudioCheckpoint:
    settings = {**_DEFAULTS, **config}
    _refuse_other_models(path, settings)
    weights = published_names(weights)
    layers, layer_norm = len(settings["conv_kernel"]), settings["feat_extract_norm"] == "layer"
    with complete(path, "wav2vec 2.0 with a waveform front end"):
        encoder = encoder_from(
            weights, layers=layers, norms=layers if layer_norm else 1, bias=settings["conv_bias"],
            pre_norm=settings["do_stable_layer_norm"],
        )  # fmt: skip
        has_head = "quantizer.codevectors" in weights
        head = head_from(weights, settings["num_codevector_groups"]) if has_head else None
    rest = [name for name in weights if not name.startswith(_OTHER_HEADS)]
    if rest:
        raise UserError(f"{path} has '{rest[0]}', which this encoder has no place for: give a plain wav2vec 2.0")
    preprocessor = folder / "preprocessor_config.json"
    heard = read_json(preprocessor) if preprocessor.is_file() else {}
    return AudioCheckpoint(path, "transformers wav2vec 2.0", encoder, head, _config_of(settings, heard))


def _config_of(settings: Mapping[str, Any], heard: Mapping[str, Any]) -> Wav2Vec2Config:
    trunk = TransformerConfig(
        dim=settings["hidden_size"],
        depth=settings["num_hidden_layers"],
        heads=settings["num_attention_heads"],
        mlp_dim=settings["intermediate_size"],
        norm="pre" if settings["do_stable_layer_norm"] else "post",
        norm_epsilon=settings["layer_norm_eps"],
        dropout=settings["hidden_dropout"],
        activation_dropout=settings["activation_dropout"],
        attention_dropout=settings["attention_dropout"],
    )
    front_end = WaveformConfig(
        dim=settings["conv_dim"][0],
        kernels=tuple(settings["conv_kernel"]),
        strides=tuple(settings["conv_stride"]),
        norm=settings["feat_extract_norm"],
        bias=settings["conv_bias"],
        normalize=heard.get("do_normalize", True),
    )
    encoder = AudioEncoderConfig(
        trunk,
        front_end,
        sample_rate=heard.get("sampling_rate", 16_000),
        position_kernel=settings["num_conv_pos_embeddings"],
        position_groups=settings["num_conv_pos_embedding_groups"],
        input_dropout=settings["feat_proj_dropout"],
    )
    quantizer = QuantizerConfig(
        groups=settings["num_codevector_groups"],
        entries=settings["num_codevectors_per_group"],
        dim=settings["codevector_dim"],
    )
    return Wav2Vec2Config(
        encoder, quantizer, settings["proj_codevector_dim"], quantizer_dropout=settings["feat_quantizer_dropout"]
    )


def _refuse_other_models(path: Path, settings: Mapping[str, Any]) -> None:
    if settings["model_type"] != "wav2vec2":
        raise UserError(f"{path} is a transformers '{settings['model_type']}' model: --init of audio reads 'wav2vec2'")
    for name in ("hidden_act", "feat_extract_activation"):
        if settings[name] != "gelu":
            raise UserError(f"{path} uses the activation '{settings[name]}': only exact gelu can be represented")
    if len(set(settings["conv_dim"])) > 1:
        raise UserError(f"{path} has convolutions of widths {settings['conv_dim']}: only equal ones can be represented")
    if settings["add_adapter"] or settings["adapter_attn_dim"] is not None:
        raise UserError(f"{path} has adapters, which this encoder has no place for: give a plain wav2vec 2.0")
