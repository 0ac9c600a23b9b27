"""How often tokens and pairs of neighbors occur: what a guess without a network is made of."""

import numpy as np
from jaxtyping import Float64, Int64

from mmssl.data.text.cache import TokenCache

_CHUNK = 2**22
MOST_HELD = 2**23
"""Pairs that are counted at a time, in 128 MB: many times those that are asked for, so what is forgotten was rare."""


def count_tokens(cache: TokenCache) -> Float64[np.ndarray, " vocabulary"]:
    """Occurrences of each token; 0 for special ones."""
    counts = np.zeros(cache.tokenizer.vocabulary_size, np.int64)
    for first in range(0, len(cache.tokens), _CHUNK):
        counts += np.bincount(cache.tokens[first : first + _CHUNK], minlength=len(counts))
    counts[list(cache.tokenizer.special_ids)] = 0
    return counts.astype(np.float64)


def count_pairs(
    cache: TokenCache, starts: Int64[np.ndarray, " piece"], most: int
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """The most frequent pairs of neighbors that no piece's beginning separates; (left, right, count).

    Memory is bounded: where there are more than ``MOST_HELD`` different pairs, the rarer ones are forgotten each time,
    and counted from zero if they come again.
    """
    size = cache.tokenizer.vocabulary_size
    usable = np.ones(size, bool)
    usable[list(cache.tokenizer.special_ids)] = False
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for first in range(0, max(len(cache.tokens) - 1, 0), _CHUNK):
        tokens = cache.tokens[first : first + _CHUNK + 1].astype(np.int64)
        together = usable[tokens[:-1]] & usable[tokens[1:]]
        low, high = np.searchsorted(starts, (first + 1, first + len(tokens)))
        together[starts[low:high] - first - 1] = False
        found, number = np.unique((tokens[:-1] * size + tokens[1:])[together], return_counts=True)
        keys, inverse = np.unique(np.concatenate((keys, found)), return_inverse=True)
        counts = np.bincount(inverse, np.concatenate((counts, number)), minlength=len(keys)).astype(np.int64)
        if len(keys) > MOST_HELD:
            kept = np.sort(np.argsort(-counts, kind="stable")[: MOST_HELD // 2])
            keys, counts = keys[kept], counts[kept]
    # keys ascend, and a stable sort keeps them so among equal counts
    order = np.argsort(-counts, kind="stable")[:most]
    return keys[order] // size, keys[order] % size, counts[order]
