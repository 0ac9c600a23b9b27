"""Trained weights of a language model in our terms, whether we wrote them or transformers did."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmssl.config import from_dict, read_json
from mmssl.errors import UserError
from mmssl.interchange.bert.names import DECODER, HEAD, encoder_from, head_from, published_names
from mmssl.interchange.weights import Weights, complete, find_model, no_config, read_weights
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_language_model import MaskedLanguageModelConfig

LOADER = "BertForMaskedLM"

_DEFAULTS = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
    "tie_word_embeddings": True,
}  # fmt: skip
"""What transformers' BertConfig takes for keys that a config.json leaves out."""

_OTHER_HEADS = ("cls.seq_relationship.", "bert.pooler.", "classifier.", "qa_outputs.", "bert.embeddings.position_ids")

STATISTICS = ("unigram", "neighbours.")
"""Tensors of a masked language model that describe its data, and are not learned."""


@dataclass(frozen=True)
class TextCheckpoint:
    """An encoder of texts, perhaps with the head that guesses tokens."""

    path: Path
    """Where it was read from."""
    kind: str
    """What it is, for people."""
    weights: Weights
    """Embeddings and encoder under our names."""
    head: Weights | None
    """The head under our names; None where there is none that can be taken over."""
    no_head: str
    """Why there is no head, where there is none."""
    encoder: TransformerConfig
    """Shape and dropout of the encoder."""
    vocabulary_size: int
    """Rows of the table of words."""
    max_length: int
    """Rows of the table of positions."""
    segments: int
    """Rows of the table of segments."""


def read_text_checkpoint(where: str | Path) -> TextCheckpoint:
    """Read weights of ours or of transformers' BERT; ``where`` as in :func:`mmssl.interchange.weights.find_model`.

    Raises UserError where there are no such weights, or where the model has parts that our trunk has not.
    """
    path, folder, file = find_model(where, LOADER)
    if not (folder / "config.json").is_file():
        raise no_config(folder)
    config = read_json(folder / "config.json")
    if "predictor" in config:
        return _our_checkpoint(path, config, read_weights(file))
    if "model_type" in config:
        return _transformers_checkpoint(path, config, read_weights(file))
    raise UserError(f"{folder / 'config.json'} is neither mmssl's nor transformers': give a folder that is")


def refuse_other_tasks(path: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError where ``config``, of a run of ours, is that of another predictor."""
    name = config.get("predictor", "masked_language_model")
    if name != "masked_language_model":
        raise UserError(f"{path} is a {name}, not an encoder of texts: give a masked_language_model")


def _our_checkpoint(path: Path, data: dict[str, Any], weights: Weights) -> TextCheckpoint:
    refuse_other_tasks(path, data)
    data = {key: value for key, value in data.items() if key != "predictor"}
    config = from_dict(MaskedLanguageModelConfig, data, f"{path}: config.json")
    learned = {name: tensor for name, tensor in weights.items() if not name.startswith(STATISTICS)}
    return TextCheckpoint(
        path=path,
        kind="mmssl",
        weights={name: tensor for name, tensor in learned.items() if name not in HEAD},
        head={name: tensor for name, tensor in learned.items() if name in HEAD},
        no_head="",
        encoder=config.encoder,
        vocabulary_size=config.vocabulary_size,
        max_length=config.max_length,
        segments=config.segments,
    )


def _transformers_checkpoint(path: Path, config: Mapping[str, Any], weights: Weights) -> TextCheckpoint:
    settings = {**_DEFAULTS, **config}
    _refuse_other_models(path, settings)
    weights = published_names(weights, settings["tie_word_embeddings"])
    with complete(path, "BERT with one table of absolute positions"):
        encoder = encoder_from(weights)
        no_head = _no_head(weights, encoder)
        head = None if no_head else head_from(weights)
    rest = [name for name in weights if not name.startswith((*_OTHER_HEADS, "cls.predictions."))]
    if rest:
        raise UserError(f"{path} has '{rest[0]}', which this encoder has no place for: give a plain BERT")
    return TextCheckpoint(
        path=path,
        kind="transformers BERT",
        weights=encoder,
        head=head,
        no_head=no_head,
        encoder=TransformerConfig(
            dim=settings["hidden_size"],
            depth=settings["num_hidden_layers"],
            heads=settings["num_attention_heads"],
            mlp_dim=settings["intermediate_size"],
            norm="post",
            norm_epsilon=settings["layer_norm_eps"],
            dropout=settings["hidden_dropout_prob"],
            attention_dropout=settings["attention_probs_dropout_prob"],
        ),
        vocabulary_size=settings["vocab_size"],
        max_length=settings["max_position_embeddings"],
        segments=settings["type_vocab_size"],
    )


def _refuse_other_models(path: Path, settings: Mapping[str, Any]) -> None:
    if settings["model_type"] != "bert":
        raise UserError(f"{path} is a transformers '{settings['model_type']}' model: --init of texts reads 'bert'")
    if settings["hidden_act"] != "gelu":
        raise UserError(f"{path} uses the activation '{settings['hidden_act']}': only exact gelu can be represented")
    if settings["position_embedding_type"] != "absolute":
        raise UserError(
            f"{path} has positions of the kind '{settings['position_embedding_type']}': "
            "only absolute ones can be represented"
        )
    if settings["is_decoder"] or settings["add_cross_attention"]:
        raise UserError(f"{path} is a decoder, which looks at earlier tokens only or at another text: give an encoder")


def _no_head(weights: Weights, encoder: Weights) -> str:
    """Why the head cannot be taken over; empty where it can."""
    if not any(name.startswith("cls.predictions.") for name in weights):
        return "there is none"
    decoder = weights.get(DECODER)
    if decoder is not None and not torch.equal(decoder, encoder["word_embedding.weight"]):
        return "its output layer is not its table of words"
    return ""
