"""Permutations of a set too large to hold one: where each place is sent is computed, place by place.

The n places are written as pairs (left, right) with left < a and right < b, where a b is n or a little more, and
stirred by a Feistel network whose halves are added to modulo a and b in turn: a permutation of all pairs whatever its
round functions (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: generalised Feistel). A pair
beyond n is sent on until it lies within (their cycle walking); with a the root of n, rounded up, that is fewer than one
in a of them. Four rounds of random functions make a pseudorandom permutation (Luby and Rackoff, SIAM J. Comput. 1988);
we take eight, since ours are a hash: the mixing steps of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

import math

import numpy as np
from jaxtyping import Int64, UInt64

_WORD64 = (1 << 64) - 1
_ROUNDS = 8
_KEYS = 0x5348554646
"""Philox counter of the round keys, away from the words that small sets are sorted by."""


def philox(seed: int, epoch: int, stream: int = 0) -> np.random.Philox:
    """Philox4x64 keyed by (seed, epoch); streams of one key do not overlap (Salmon et al., SC 2011)."""
    key = np.array([seed & _WORD64, epoch], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64))


def sorted_words(length: int, seed: int, epoch: int, stream: int = 0) -> Int64[np.ndarray, " place"]:
    """A permutation of a small set, held whole: the ranks of random words.

    Sorting raw words keeps it fixed for ever: they are defined by the published algorithm, whereas
    ``Generator.permutation`` may change between numpy versions (NEP 19).
    """
    return np.argsort(philox(seed, epoch, stream).random_raw(length), kind="stable").astype(np.int64)


def permuted(places: Int64[np.ndarray, " place"], length: int, seed: int, epoch: int) -> Int64[np.ndarray, " place"]:
    """Where a permutation of ``length`` places, below 2^62, sends these."""
    left_size = math.isqrt(length - 1) + 1
    right_size = -(-length // left_size)
    keys = philox(seed, epoch, _KEYS).random_raw(_ROUNDS)
    result = _stirred(places.astype(np.uint64), left_size, right_size, keys)
    while len(outside := np.flatnonzero(result >= length)):
        result[outside] = _stirred(result[outside], left_size, right_size, keys)
    return result.astype(np.int64)


def _stirred(
    places: UInt64[np.ndarray, " place"], left_size: int, right_size: int, keys: UInt64[np.ndarray, " round"]
) -> UInt64[np.ndarray, " place"]:
    a, b = np.uint64(left_size), np.uint64(right_size)
    left, right = np.divmod(places, b)
    for number, key in enumerate(keys):
        if number % 2:
            right = (right + _mixed(left + key) % b) % b
        else:
            left = (left + _mixed(right + key) % a) % a
    return left * b + right


def _mixed(words: UInt64[np.ndarray, " place"]) -> UInt64[np.ndarray, " place"]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
