"""A contrastive predictor as transformers' Wav2Vec2ForPreTraining with its preprocessor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mmssl.errors import UserError
from mmssl.interchange.staging import Report, report_of, save_weights, write_json
from mmssl.interchange.wav2vec2.names import wav2vec2_to
from mmssl.interchange.wav2vec2.parity import compare_wav2vec2
from mmssl.masking.theory import start_probability
from mmssl.nn import WaveformConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2, Wav2Vec2Config


def write_wav2vec2(
    predictor: Wav2Vec2, run: Path, to: Literal["timm", "transformers"]
) -> Callable[[Path, Path], Report]:
    """What fills a folder for transformers: takes that folder, and the place where it will be in the end.

    Raises UserError where another library is asked for, or the model is none that wav2vec 2.0 there can represent.
    """
    if to != "transformers":
        raise UserError(f"{run} is a model of recordings, and {to} has none: export it with --to transformers")
    front_end = predictor.config.encoder.front_end
    if not isinstance(front_end, WaveformConfig):
        raise UserError(
            f"{run} hears spectrograms, wav2vec 2.0 of transformers waveforms: only runs with a waveform front end can "
            "be exported"
        )
    return lambda folder, out: _write(predictor, front_end, folder, out)


def _write(predictor: Wav2Vec2, front_end: WaveformConfig, folder: Path, out: Path) -> Report:
    save_weights(wav2vec2_to(predictor.state_dict()), folder)
    write_json(folder / "config.json", wav2vec2_config(predictor.config, front_end))
    write_json(folder / "preprocessor_config.json", preprocessor_config(predictor.sample_rate, front_end))
    differences, version = compare_wav2vec2(predictor, folder)
    load = ["from transformers import AutoFeatureExtractor, Wav2Vec2ForPreTraining",
            f"prepare = AutoFeatureExtractor.from_pretrained('{out}')",
            f"model = Wav2Vec2ForPreTraining.from_pretrained('{out}')"]  # fmt: skip
    note = "the mean feature of a probe is the mean of last_hidden_state over all frames that are not padding"
    if front_end.norm == "group":
        note += "; give recordings one by one, or equally long: there, group norm averages over padding too"
    return report_of("Wav2Vec2ForPreTraining", f"transformers {version}", out, differences, load, note)


def wav2vec2_config(config: Wav2Vec2Config, front_end: WaveformConfig) -> dict[str, Any]:
    """config.json of transformers' Wav2Vec2ForPreTraining."""
    encoder, trunk, quantizer = config.encoder, config.encoder.trunk, config.quantizer
    return {
        "architectures": ["Wav2Vec2ForPreTraining"],
        "model_type": "wav2vec2",
        "hidden_size": trunk.dim,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.heads,
        "intermediate_size": trunk.mlp_dim,
        "hidden_act": "gelu",
        "hidden_dropout": trunk.dropout,
        "activation_dropout": trunk.activation_dropout,
        "attention_dropout": trunk.attention_dropout,
        "layerdrop": 0.0,
        "layer_norm_eps": trunk.norm_epsilon,
        "do_stable_layer_norm": trunk.norm == "pre",
        "feat_extract_norm": front_end.norm,
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(front_end.kernels),
        "conv_dim": [front_end.dim] * len(front_end.kernels),
        "conv_kernel": list(front_end.kernels),
        "conv_stride": list(front_end.strides),
        "conv_bias": front_end.bias,
        "feat_proj_dropout": encoder.input_dropout,
        "num_conv_pos_embeddings": encoder.position_kernel,
        "num_conv_pos_embedding_groups": encoder.position_groups,
        "feat_quantizer_dropout": config.quantizer_dropout,
        "num_codevector_groups": quantizer.groups,
        "num_codevectors_per_group": quantizer.entries,
        "codevector_dim": quantizer.dim,
        "proj_codevector_dim": config.projection_dim,
        "num_negatives": config.negatives,
        "contrastive_logits_temperature": config.temperature,
        "diversity_loss_weight": config.diversity_weight,
        # there, the share that spans would cover if none overlapped
        "mask_time_prob": start_probability(config.mask_fraction, config.span) * config.span,
        "mask_time_length": config.span,
    }


def preprocessor_config(sample_rate: int, front_end: WaveformConfig) -> dict[str, Any]:
    """preprocessor_config.json: with group norm a recording goes without an attention mask, as published."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": sample_rate,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": front_end.normalize,
        "return_attention_mask": front_end.norm == "layer",
    }
