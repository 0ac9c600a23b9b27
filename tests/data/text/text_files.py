"""Small texts for the tests of mmssl.data.text."""

import itertools
import random
from pathlib import Path

import numpy as np

from mmssl.data.text import TextTokenizer, TokenCache, open_cache, open_texts, train_tokenizer

TEXT = "the cat dog sat on a mat and ran under tables chairs while unbelievable rain was falling softly"
WORDS = TEXT.split()


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))).capitalize() + "." for _ in range(count)]


def write_lines(path: Path, count: int = 120, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(sentences(count, seed)) + "\n", encoding="utf-8")
    return path


def small_tokenizer(kind: str = "wordpiece") -> TextTokenizer:
    """Too few pieces for whole words, so that words have several tokens."""
    return train_tokenizer(sentences(50), kind, 60 if kind == "wordpiece" else 280)  # type: ignore[arg-type]


def small_cache(tmp_path: Path, kind: str = "wordpiece", **options: object) -> TokenCache:
    source = open_texts(write_lines(tmp_path / "lines.txt"), documents="line", **options)  # type: ignore[arg-type]
    return open_cache(source, small_tokenizer(kind), folder=tmp_path / "cache")


def shared(name: str) -> Path:
    """A folder of the data that lie beside the repository; may be missing."""
    return Path(__file__).resolve().parents[3].parent / "shared/data" / name


def document_tokens(cache: TokenCache) -> list[list[int]]:
    edges = cache.documents.tolist()
    return [np.asarray(cache.tokens[a:b]).tolist() for a, b in itertools.pairwise(edges)]
