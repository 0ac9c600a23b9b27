"""Train a tokenizer on the documents at hand: WordPiece or byte-level BPE."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmssl.data.text.tokenizer import DEFAULT_MAX_LENGTH, ROLES, SPELLINGS, TextTokenizer, limit_threads
from mmssl.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Kind = Literal["wordpiece", "bpe"]
MOST_CHARACTERS = 1000
"""Of a WordPiece alphabet: the most frequent; words with others become unknown."""
LONGEST_WORD = 1000
"""Characters of a word that training looks at. It holds every distinct word in memory, at some 50 bytes a character:
megabytes without a space (base64, sequences of DNA) would cost gigabytes and teach no vocabulary."""
_LONGER = re.compile(rf"(\b\w{{{LONGEST_WORD}}})\w+")
_SPECIAL = [SPELLINGS[role][0] for role in ROLES]
_LEAST = {"wordpiece": len(_SPECIAL) + 1, "bpe": len(_SPECIAL) + 256}


def train_tokenizer(
    documents: Iterable[str],
    kind: Kind,
    vocabulary_size: int,
    *,
    lowercase: bool | None = None,
    model_max_length: int = DEFAULT_MAX_LENGTH,
) -> TextTokenizer:
    """Train a tokenizer; the same documents in the same order always give the same one.

    The special tokens [PAD] [UNK] [CLS] [SEP] [MASK] are ids 0 to 4. Text that spells one of them is ordinary text here
    as it is in encoding. When the data do not support so large a vocabulary it becomes smaller: look at
    ``tokenizer.vocabulary_size``.

    Args:
        documents: read twice where the kind is "wordpiece" (an iterator is kept in memory for that).
        kind: "wordpiece" as in BERT, or "bpe": byte-level as in GPT-2 and RoBERTa, which knows no unknown tokens.
        vocabulary_size: special tokens included. WordPiece gives more when the alphabet alone does.
        lowercase: also strips accents, like bert-base-uncased; by default with "wordpiece" only.
        model_max_length: what is written for users of the saved tokenizer.

    Raises:
        UserError: for an unknown kind, too small a vocabulary, or documents without text.
    """
    if kind not in _LEAST:
        raise UserError(f"tokenizer kind '{kind}' is unknown: choose wordpiece or bpe")
    if vocabulary_size < _LEAST[kind]:
        raise UserError(f"a vocabulary of {vocabulary_size} is too small for {kind}: choose at least {_LEAST[kind]}")
    limit_threads()
    lower = kind == "wordpiece" if lowercase is None else lowercase
    tokenizer = _train_wordpiece(documents, vocabulary_size, lower) if kind == "wordpiece" else None
    tokenizer = tokenizer or _train_bpe(documents, vocabulary_size, lower)
    _add_special(tokenizer)
    special: dict[str, str] = dict(zip(ROLES, _SPECIAL, strict=True))
    return TextTokenizer(tokenizer, special, model_max_length=model_max_length)


def _wordpiece(model: Any, lower: bool) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _train_wordpiece(documents: Iterable[str], vocabulary_size: int, lower: bool) -> "Tokenizer":
    """The library numbers "##x" in the order in which a hash map gives the words, and breaks ties by these numbers.

    So a first round without merges finds the alphabet, and the second is given it sorted: then nothing is left to
    chance. It goes in as "special" tokens, hence the model is built anew from the vocabulary alone.
    """
    from tokenizers import models, trainers

    documents = list(documents) if iter(documents) is documents else documents
    counts = np.zeros(0x110000, np.int64)
    tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"), lower)
    alphabet_of = trainers.WordPieceTrainer(vocab_size=0, show_progress=False, special_tokens=_SPECIAL)
    tokenizer.train_from_iterator(_counted(documents, lower, counts), alphabet_of)
    found = tokenizer.get_vocab()
    characters = np.flatnonzero(counts)
    characters = [chr(code) for code in characters[np.argsort(-counts[characters], kind="stable")]]
    alphabet = sorted([character for character in characters if character in found][:MOST_CHARACTERS])
    if not alphabet:
        raise UserError("there is no text to train a tokenizer on: the documents are empty")
    inner = [f"##{character}" for character in alphabet if f"##{character}" in found]
    tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"), lower)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, show_progress=False, special_tokens=[*_SPECIAL, *alphabet, *inner],
        limit_alphabet=len(alphabet), initial_alphabet=alphabet,
    )  # fmt: skip
    tokenizer.train_from_iterator(_shortened(documents), trainer)
    return _wordpiece(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100), lower)


def _shortened(documents: Iterable[str]) -> Iterator[str]:
    """The documents with the beginning alone of very long words."""
    return (_LONGER.sub(r"\1", text) for text in documents)


def _counted(documents: Iterable[str], lower: bool, counts: np.ndarray) -> Iterator[str]:
    from tokenizers import normalizers

    # one of its own: the tokenizer's is locked while it trains, and asking it would wait for ever
    normalizer = normalizers.BertNormalizer(lowercase=lower)
    for text in _shortened(documents):
        normal = normalizer.normalize_str(text)
        codes = np.frombuffer(normal.encode("utf-32-le"), np.uint32)
        used = np.bincount(codes)
        counts[: len(used)] += used
        yield normal


def _train_bpe(documents: Iterable[str], vocabulary_size: int, lower: bool) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.NFC(), *((normalizers.Lowercase(),) if lower else ())]
    tokenizer.normalizer = normalizers.Sequence(steps)  # type: ignore[arg-type]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, show_progress=False, special_tokens=_SPECIAL, min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(_shortened(documents), trainer)
    if tokenizer.get_vocab_size() == _LEAST["bpe"] and not any(True for _ in documents):
        raise UserError("there is no text to train a tokenizer on: the documents are empty")
    return tokenizer


def _add_special(tokenizer: "Tokenizer") -> None:
    from tokenizers import AddedToken, processors

    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
