"""A masked language model as transformers' BertForMaskedLM with its tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mmssl.errors import UserError
from mmssl.interchange.bert.names import bert_to
from mmssl.interchange.bert.parity import compare_bert
from mmssl.interchange.staging import Report, report_of, save_weights, write_json
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig


def write_bert(
    predictor: MaskedLanguageModel, run: Path, to: Literal["timm", "transformers"]
) -> Callable[[Path, Path], Report]:
    """What fills a folder for transformers: takes that folder, and the place where it will be in the end.

    Raises UserError where another library is asked for, or the encoder is none that BERT can represent.
    """
    if to != "transformers":
        raise UserError(f"{run} is a language model, and {to} has none: export it with --to transformers")
    if predictor.config.encoder.norm != "post":
        raise UserError(f"{run} has norms before its blocks, BERT after: it cannot be exported")
    return lambda folder, out: _write(predictor, run, folder, out)


def _write(predictor: MaskedLanguageModel, run: Path, folder: Path, out: Path) -> Report:
    from mmssl.data.text.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(run / "model" if (run / "model").is_dir() else run)
    tokenizer.save(folder)
    save_weights(bert_to(predictor.state_dict()), folder)
    write_json(folder / "config.json", bert_config(predictor.config))
    differences, version = compare_bert(predictor, tokenizer, folder)
    load = ["from transformers import AutoTokenizer, BertForMaskedLM",
            f"tokenizer = AutoTokenizer.from_pretrained('{out}')",
            f"model = BertForMaskedLM.from_pretrained('{out}')"]  # fmt: skip
    note = "the mean feature of a probe is the mean of last_hidden_state over all tokens that are not special"
    return report_of("BertForMaskedLM", f"transformers {version}", out, differences, load, note)


def bert_config(config: MaskedLanguageModelConfig) -> dict[str, Any]:
    """config.json of transformers' BertForMaskedLM."""
    encoder = config.encoder
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": config.vocabulary_size,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": "gelu",
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.segments,
        "layer_norm_eps": encoder.norm_epsilon,
        "pad_token_id": config.pad_id,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }
