"""Starting from a trained language model: its tokenizer, the config of the model fitted to it, and its weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.interchange.bert.checkpoint import LOADER, STATISTICS, read_text_checkpoint, refuse_other_tasks
from mmssl.interchange.bert.names import HEAD
from mmssl.interchange.trunk import check_trunk, taken_over
from mmssl.interchange.weights import find_model, load_strictly
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

if TYPE_CHECKING:
    from mmssl.data.text.tokenizer import TextTokenizer


def initial_tokenizer(where: str | Path) -> "TextTokenizer":
    """The tokenizer that belongs to the weights in ``where``: a run, a transformers folder, or a name on the hub.

    Raises UserError where there is none, or none with a mask token, or where ``where`` is a run on something else.
    """
    from mmssl.data.text.tokenizer import TextTokenizer

    path, folder, _ = find_model(where, LOADER)
    if (folder / "config.json").is_file():
        refuse_other_tasks(path, read_json(folder / "config.json"))
    return TextTokenizer.load(folder)


def adapt_text_config(config: MaskedLanguageModelConfig, where: str | Path) -> MaskedLanguageModelConfig:
    """The config, changed so that the weights in ``where`` fit: vocabulary, special tokens, positions, trunk, dropout.

    What the flags decide stays: mask, unit, replacement. ``max_length`` becomes the number of positions there are, so
    that none is lost; pieces of text may be shorter.

    Raises UserError where pieces as long as ``config.max_length`` have no position there, where tokenizer and weights
    do not belong together, and for whatever :func:`mmssl.interchange.bert.checkpoint.read_text_checkpoint` refuses.
    """
    source, tokenizer = read_text_checkpoint(where), initial_tokenizer(where)
    if config.max_length > source.max_length:
        raise UserError(
            f"{source.path} has {source.max_length} positions, asked for are pieces of {config.max_length} tokens: "
            f"set max_length to at most {source.max_length}"
        )
    if tokenizer.vocabulary_size > source.vocabulary_size:
        raise UserError(
            f"{source.path} has a tokenizer of {tokenizer.vocabulary_size} tokens and a model of "
            f"{source.vocabulary_size}: use the tokenizer that was saved with the weights"
        )
    encoder = replace(
        taken_over(config.encoder, source.encoder),
        dropout=source.encoder.dropout,
        attention_dropout=source.encoder.attention_dropout,
    )
    return replace(
        config,
        vocabulary_size=source.vocabulary_size,
        encoder=encoder,
        special_ids=tuple(tokenizer.special_ids),
        mask_id=tokenizer.mask_id,
        pad_id=config.pad_id if tokenizer.pad_id is None else tokenizer.pad_id,
        max_length=source.max_length,
        segments=source.segments,
    )


def load_initial_text_weights(predictor: MaskedLanguageModel, where: str | Path) -> str:
    """Load trained weights into a predictor; returns a line that says what was loaded and what was left as it was.

    Embeddings and encoder are always loaded whole; the head where there is one that shares its output layer with the
    table of words, as ours does. Statistics of the data (how often each token) are the predictor's own.

    Raises UserError where weights and model do not fit, saying what to set; :func:`adapt_text_config` sets it.
    """
    source, config = read_text_checkpoint(where), predictor.config
    for name in ("vocabulary_size", "max_length", "segments"):
        theirs, ours = getattr(source, name), getattr(config, name)
        if theirs != ours:
            raise UserError(f"{source.path} has a {name} of {theirs}, this model of {ours}: set it to {theirs}")
    check_trunk(source.path, source.encoder, config.encoder)
    said = f"init {where} ({source.kind}): {source.vocabulary_size} words, encoder {config.encoder.depth} x "
    said += f"{config.encoder.dim}"
    if source.head is None:
        load_strictly(source.path, predictor, source.weights, (*STATISTICS, *HEAD))
        return f"{said}; new: the head ({source.no_head})"
    load_strictly(source.path, predictor, source.weights | source.head, STATISTICS)
    return f"{said}, head"
