"""What the weights of wav2vec 2.0 are called in transformers. Pure functions on tensors.

Ours and theirs differ in names alone, but for query, key and value, which are one projection here and three there, and
for axes of length 1.
"""

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from mmssl.interchange.weights import Weights, blocks_from, blocks_to

PARTS = {
    "norm1": ("layer_norm",),
    "attention.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.proj": ("attention.out_proj",),
    "norm2": ("final_layer_norm",),
    "mlp.fc1": ("feed_forward.intermediate_dense",),
    "mlp.fc2": ("feed_forward.output_dense",),
}
_BLOCKS, _OUR_BLOCKS = "wav2vec2.encoder.layers", "encoder.trunk.blocks"

_ENCODER = {
    "encoder.mask_token": "wav2vec2.masked_spec_embed",
    "encoder.feature_norm.weight": "wav2vec2.feature_projection.layer_norm.weight",
    "encoder.feature_norm.bias": "wav2vec2.feature_projection.layer_norm.bias",
    "encoder.projection.weight": "wav2vec2.feature_projection.projection.weight",
    "encoder.projection.bias": "wav2vec2.feature_projection.projection.bias",
    "encoder.positions.direction": "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    "encoder.positions.bias": "wav2vec2.encoder.pos_conv_embed.conv.bias",
}
_LENGTH = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
_HEAD = {
    "quantizer.logits.weight": "quantizer.weight_proj.weight",
    "quantizer.logits.bias": "quantizer.weight_proj.bias",
    "project_hidden.weight": "project_hid.weight",
    "project_hidden.bias": "project_hid.bias",
    "project_code.weight": "project_q.weight",
    "project_code.bias": "project_q.bias",
}
_CODEBOOK = "quantizer.codevectors"

MASK = "encoder.mask_token"
"""The vector of hidden frames, which a model that was fine-tuned without hiding may lack."""


def published_names(weights: Mapping[str, Tensor]) -> Weights:
    """As Wav2Vec2ForPreTraining writes them today: Wav2Vec2Model leaves ``wav2vec2.`` out; weight norm was once
    ``weight_g`` and ``weight_v``."""
    renamed = {}
    for name, tensor in weights.items():
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        name = name.replace("conv.weight_v", "conv.parametrizations.weight.original1")
        inner = name.startswith(("feature_extractor.", "feature_projection.", "encoder.", "masked_spec_embed"))
        renamed["wav2vec2." + name if inner else name] = tensor
    return renamed


def _front_end(layers: int, norms: int, bias: bool) -> dict[str, str]:
    """Ours and theirs of the convolutions."""
    names = {}
    for layer in range(layers):
        theirs = f"wav2vec2.feature_extractor.conv_layers.{layer}"
        for kind in ("weight", "bias"):
            if bias or kind == "weight":
                names[f"encoder.front_end.convolutions.{layer}.{kind}"] = f"{theirs}.conv.{kind}"
            if layer < norms:
                names[f"encoder.front_end.norms.{layer}.{kind}"] = f"{theirs}.layer_norm.{kind}"
    return names


def _norm(pre_norm: bool) -> dict[str, str]:
    """The norm beside the blocks: behind positions, or behind the last block."""
    ours = "encoder.trunk.norm" if pre_norm else "encoder.position_norm"
    return {f"{ours}.{kind}": f"wav2vec2.encoder.layer_norm.{kind}" for kind in ("weight", "bias")}


def wav2vec2_to(weights: Mapping[str, Tensor]) -> Weights:
    """A predictor as Wav2Vec2ForPreTraining's weights."""
    layers = sum(name.startswith("encoder.front_end.convolutions.") and name.endswith("weight") for name in weights)
    norms = sum(name.startswith("encoder.front_end.norms.") and name.endswith("weight") for name in weights)
    names = _ENCODER | _HEAD | _norm("encoder.trunk.norm.weight" in weights)
    names |= _front_end(layers, norms, "encoder.front_end.convolutions.0.bias" in weights)
    return {
        **{theirs: weights[ours].clone() for ours, theirs in names.items()},
        _LENGTH: weights["encoder.positions.length"][None, None].clone(),
        _CODEBOOK: weights["quantizer.codebook"].flatten(0, 1)[None].clone(),
        **blocks_to(PARTS, weights, _OUR_BLOCKS, _BLOCKS),
    }


def encoder_from(
    weights: MutableMapping[str, Tensor], *, layers: int, norms: int, bias: bool, pre_norm: bool
) -> Weights:
    """The encoder under our names, of weights under the published ones. What is used is taken out.

    Without a mask vector one is drawn, as for a new model. Raises KeyError with the name of a tensor that is missing.
    """
    names = _ENCODER | _norm(pre_norm) | _front_end(layers, norms, bias)
    width = weights[names["encoder.projection.bias"]].shape
    weights.setdefault(names[MASK], torch.empty(width).uniform_())
    ours = {ours: weights.pop(theirs) for ours, theirs in names.items()}
    ours["encoder.positions.length"] = weights.pop(_LENGTH).flatten()
    return ours | blocks_from(PARTS, weights, _BLOCKS, _OUR_BLOCKS)


def head_from(weights: MutableMapping[str, Tensor], groups: int) -> Weights:
    """The quantizer and both projections; what is used is taken out.

    Raises KeyError with the name of a tensor that is missing.
    """
    ours = {ours: weights.pop(theirs) for ours, theirs in _HEAD.items()}
    return ours | {"quantizer.codebook": weights.pop(_CODEBOOK)[0].unflatten(0, (groups, -1))}
