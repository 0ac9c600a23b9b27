"""What the weights of a masked language model are called in transformers' BERT. Pure functions on tensors.

Ours and theirs differ in names alone, but for query, key and value, which are one projection here and three there.
"""

from collections.abc import Mapping, MutableMapping

from torch import Tensor

from mmssl.interchange.weights import Weights, blocks_from, blocks_to

PARTS = {
    "norm1": ("attention.output.LayerNorm",),
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.proj": ("attention.output.dense",),
    "norm2": ("output.LayerNorm",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}

_EMBEDDINGS = {
    "word_embedding.weight": "bert.embeddings.word_embeddings.weight",
    "position_embedding.weight": "bert.embeddings.position_embeddings.weight",
    "segment_embedding.weight": "bert.embeddings.token_type_embeddings.weight",
    "embedding_norm.weight": "bert.embeddings.LayerNorm.weight",
    "embedding_norm.bias": "bert.embeddings.LayerNorm.bias",
}
_HEAD = {
    "head_dense.weight": "cls.predictions.transform.dense.weight",
    "head_dense.bias": "cls.predictions.transform.dense.bias",
    "head_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "head_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "head_bias": "cls.predictions.bias",
}
HEAD = tuple(_HEAD)
"""What turns encoded tokens into logits, beside the word embeddings, under our names."""
DECODER = "cls.predictions.decoder.weight"
"""The output layer, where it is not the table of word embeddings itself."""

_BLOCKS = "bert.encoder.layer"


def published_names(weights: Mapping[str, Tensor], tied: bool) -> Weights:
    """As BertForMaskedLM writes them: BertModel leaves ``bert.`` out; layer norms once had a gamma and a beta.

    The bias of the head may be there twice; where the output layer is not ``tied``, that layer's own is added.
    """
    renamed = {}
    for name, tensor in weights.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        renamed["bert." + name if name.startswith(("embeddings.", "encoder.", "pooler.")) else name] = tensor
    if "cls.predictions.decoder.bias" in renamed:
        bias = renamed.pop("cls.predictions.decoder.bias")
        if not tied or "cls.predictions.bias" not in renamed:
            renamed["cls.predictions.bias"] = bias
    return renamed


def bert_to(weights: Mapping[str, Tensor]) -> Weights:
    """A masked language model as BertForMaskedLM's weights; its output layer is tied and not written twice."""
    return {
        **{theirs: weights[ours].clone() for ours, theirs in (_EMBEDDINGS | _HEAD).items()},
        **blocks_to(PARTS, weights, "encoder.blocks", _BLOCKS),
    }


def encoder_from(weights: MutableMapping[str, Tensor]) -> Weights:
    """Embeddings and blocks under our names, of weights under the published ones. What is used is taken out.

    Raises KeyError with the name of a tensor that is missing.
    """
    ours = {ours: weights.pop(theirs) for ours, theirs in _EMBEDDINGS.items()}
    return ours | blocks_from(PARTS, weights, _BLOCKS, "encoder.blocks")


def head_from(weights: MutableMapping[str, Tensor]) -> Weights:
    """The head; what is used is taken out. Raises KeyError with the name of a tensor that is missing."""
    return {ours: weights.pop(theirs) for ours, theirs in _HEAD.items()}
