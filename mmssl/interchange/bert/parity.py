"""Whether a language model computes in transformers what it computes here, and its tokenizer cuts texts alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.interchange.parity import compare, import_transformers, load_transformers, quiet
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

if TYPE_CHECKING:
    from mmssl.data.text.tokenizer import TextTokenizer

TEXTS = (
    "The quick brown fox doesn't jump over 12,345 lazy dogs.",
    "Tokenizers disagree about na\u00efve caf\u00e9s, \u6771\u4eac, \U0001f642 and\ttabs .",
    "antidisestablishmentarianism",
    "",
)
"""Cut by both tokenizers: case, apostrophe, digits, accents, no spaces, emoji, one long word, nothing."""


def probe_batch(config: MaskedLanguageModelConfig, tokenizer: "TextTokenizer") -> dict[str, Tensor]:
    """Random words in pieces as long as there are positions, a third as long, and as short as can be."""
    generator = torch.Generator().manual_seed(0)
    lengths = [config.max_length, max(3, config.max_length // 3), 3]
    ordinary = torch.tensor(sorted(set(range(config.vocabulary_size)) - set(config.special_ids)))
    token = ordinary[torch.randint(len(ordinary), (3, config.max_length), generator=generator)]
    word = torch.arange(config.max_length).repeat(3, 1)
    for row, length in enumerate(lengths):
        token[row, length:], word[row, length:] = config.pad_id, -1
        for place, special in ((0, tokenizer.cls_id), (length - 1, tokenizer.sep_id)):
            if special is not None:
                token[row, place], word[row, place] = special, -1
    zeros = torch.zeros(3, dtype=torch.int64)
    return {"token": token, "word": word, "length": torch.tensor(lengths), "id": torch.arange(3), "epoch": zeros}


def labels_of(batch: dict[str, Tensor]) -> Tensor:
    """Every third word; -100 elsewhere, which both leave out of the loss."""
    return torch.where((batch["word"] >= 0) & (batch["word"] % 3 == 1), batch["token"], -100)


@torch.no_grad()
def compare_bert(
    predictor: MaskedLanguageModel, tokenizer: "TextTokenizer", folder: Path
) -> tuple[dict[str, float], str]:
    """Differences of logits, loss and features of BertForMaskedLM, and the number of texts cut otherwise by
    AutoTokenizer; and the library's version."""
    transformers = import_transformers()
    batch = probe_batch(predictor.config, tokenizer)
    model = load_transformers("BertForMaskedLM", folder)
    real = torch.arange(batch["token"].shape[1]) < batch["length"][:, None]
    labels, inputs = labels_of(batch), {"input_ids": batch["token"], "attention_mask": real.long()}
    output = model(**inputs, labels=labels)
    logits = predictor.logits(batch["token"], batch["length"])
    loss = F.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    ours = {**predictor.encode_clean(batch), "logits": logits[real], "loss": loss}
    tokens = model.bert(**inputs).last_hidden_state
    words = (batch["word"] >= 0)[:, :, None]
    theirs = {
        "logits": output.logits[real],
        "loss": output.loss,
        "mean": (tokens * words).sum(1) / words.sum(1),
        "cls": tokens[:, 0],
    }
    with quiet():
        other = transformers.AutoTokenizer.from_pretrained(folder)
    return compare(ours, theirs) | {"tokenizer": float(_cut_otherwise(tokenizer, other))}, transformers.__version__


def _cut_otherwise(tokenizer: "TextTokenizer", other: Any) -> int:
    """How many of :data:`TEXTS` the two turn into different ids."""
    start, end = ([] if one is None else [one] for one in (tokenizer.cls_id, tokenizer.sep_id))
    ours = [[*start, *text.ids.tolist(), *end] for text in tokenizer.encode(TEXTS)]
    return sum(mine != theirs for mine, theirs in zip(ours, other(list(TEXTS))["input_ids"], strict=True))
