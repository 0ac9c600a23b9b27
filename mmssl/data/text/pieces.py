"""Cut documents into pieces that fit a network: at a line's, sentence's or word's beginning, never inside a word.

A piece takes as many tokens as it may hold, and then gives some back: it ends before the last line that begins in its
last quarter; without one, before the last sentence that does; without one, before the last word. Only a single word
that is longer than a piece is cut inside. The next piece begins where it ended, so nothing is lost; a document's last
piece may be short, and a piece never holds tokens of two documents.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from mmssl.data.text.words import LINE, SENTENCE, WORD

_TOGETHER = 8192
"""Documents that are cut at the same time, so that the marks in use are a small part of the file."""


def cut_pieces(
    marks: UInt8[np.ndarray, " token"], documents: Int64[np.ndarray, " document_and_end"], room: int
) -> tuple[Int64[np.ndarray, " piece"], Int64[np.ndarray, " piece"]]:
    """First token and length of every piece, in the order of the text.

    Args:
        marks: of all tokens, see :mod:`mmssl.data.text.words`.
        documents: where each document begins, and the end of the last.
        room: tokens that a piece may hold, special tokens not counted.
    """
    starts: list[np.ndarray] = [np.zeros(0, np.int64)]
    lengths: list[np.ndarray] = [np.zeros(0, np.int64)]
    for first in range(0, len(documents) - 1, _TOGETHER):
        edges = documents[first : first + _TOGETHER + 1]
        found_starts: list[np.ndarray] = []
        found_lengths: list[np.ndarray] = []
        start, end = edges[:-1], edges[1:]
        while len(start := start[keep := start < end]):
            end = end[keep]
            length = _take(marks, start, end, room)
            found_starts.append(start)
            found_lengths.append(length)
            start = start + length
        if found_starts:
            together = np.concatenate(found_starts)
            order = np.argsort(together)
            starts.append(together[order])
            lengths.append(np.concatenate(found_lengths)[order])
    return np.concatenate(starts), np.concatenate(lengths)


def _take(marks: np.ndarray, start: np.ndarray, end: np.ndarray, room: int) -> np.ndarray:
    """Length of the next piece of each document."""
    length = np.minimum(end - start, room)
    long = np.flatnonzero(end - start > room)
    if not len(long):
        return length
    # column c stands for a piece of c + 1 tokens: what counts is how the token behind it begins
    behind = marks[start[long, None] + np.arange(1, room + 1)]
    quarter = np.arange(1, room + 1) > room - max(1, room // 4)
    chosen = _last(behind >= WORD, room)
    for mark in (SENTENCE, LINE):
        found = _last((behind >= mark) & quarter, 0)
        chosen = np.where(found > 0, found, chosen)
    length[long] = chosen
    return length


def _last(wanted: np.ndarray, otherwise: int) -> np.ndarray:
    """Length up to the last column that is true; ``otherwise`` where none is."""
    from_end = wanted[:, ::-1].argmax(1)
    return np.where(wanted.any(1), wanted.shape[1] - from_end, otherwise)
