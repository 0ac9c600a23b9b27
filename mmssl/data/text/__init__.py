"""Texts: find documents wherever they are, turn them into tokens, load pieces of them without padding."""

from mmssl.data.text.cache import TokenCache, open_cache
from mmssl.data.text.documents import open_texts
from mmssl.data.text.loader import TextLoader
from mmssl.data.text.source import TextSource
from mmssl.data.text.tokenizer import TextTokenizer, TokenizedText, load_tokenizer
from mmssl.data.text.training import train_tokenizer

__all__ = [
    "TextLoader",
    "TextSource",
    "TextTokenizer",
    "TokenCache",
    "TokenizedText",
    "load_tokenizer",
    "open_cache",
    "open_texts",
    "train_tokenizer",
]
