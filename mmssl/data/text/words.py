"""Where words, sentences and lines begin: one mark a token, found from offsets, never from the spelling of a token."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int32, UInt8

INSIDE, WORD, SENTENCE, LINE = 0, 1, 2, 3
"""Marks: the token goes on with a word, begins a word, the first word of a sentence, the first word of a line."""
_SPACE, _LINE_END, _STOP, _WIDE_STOP, _CLOSER, _QUOTE = 1, 2, 4, 8, 16, 32
_KINDS = {
    _SPACE: "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000",
    _LINE_END: "\n\x85\u2028\u2029",
    # the full-width stops need no space behind them
    _STOP: ".!?\u2026\u3002\uff01\uff1f",
    _WIDE_STOP: "\u3002\uff01\uff1f",
    _CLOSER: "\u201d\u2019)]\xbb\u300d\u300f",
    # these open as well as close
    _QUOTE: "\"'",
}
_TABLE = np.zeros(2**16, np.uint8)
for _kind, _characters in _KINDS.items():
    _TABLE[[ord(_character) for _character in _characters]] |= _kind


def token_marks(
    text: str, offsets: Sequence[tuple[int, int]], pretokens: Sequence[int | None]
) -> UInt8[np.ndarray, " token"]:
    """Mark the tokens of one text.

    A token begins a word when its pretoken (what the tokenizer's own splitting gave) differs from that of the token
    before, or when there is white space before it or at its start. A word begins a line when there is a line end
    between it and the word before, a sentence when the text before it ends in . ! ? or the like (and closing quotes
    or brackets) and white space.

    Args:
        text: as it was given to the tokenizer.
        offsets: of each token, in characters of the text.
        pretokens: number of the pretoken of each token, None for special tokens.
    """
    count = len(offsets)
    if not count:
        return np.zeros(0, np.uint8)
    flat = np.fromiter(chain.from_iterable(offsets), np.int64, 2 * count).reshape(-1, 2)
    groups = np.array([-2 if group is None else group for group in pretokens], np.int64)
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kind = _TABLE[np.minimum(code, 2**16 - 1)]
    space = (kind & _SPACE) > 0
    # marks of what stands before character p, for p from 0 to the end
    spaces_before = np.concatenate(([0], np.cumsum(space)))
    ends_before = np.concatenate(([0], np.cumsum((kind & _LINE_END) > 0)))
    begin, end = flat[:, 0], flat[:, 1]
    # a token may carry the white space before it: what counts is its first other character
    solid = np.where(space, len(code), np.arange(len(code)))
    following = np.append(np.minimum.accumulate(solid[::-1])[::-1], len(code))
    start = np.minimum(following[np.minimum(begin, len(code))], np.maximum(end, begin))
    previous = np.concatenate(([0], end[:-1]))
    gap = spaces_before[start] > spaces_before[np.minimum(previous, start)]
    new = np.concatenate(([True], groups[1:] != groups[:-1])) | (groups == -2) | gap
    line = ends_before[start] > ends_before[np.minimum(previous, start)]
    marks = new.astype(np.uint8)
    marks[new & _after_stop(kind, start)] = SENTENCE
    marks[new & line] = LINE
    marks[0] = LINE
    return marks


def _after_stop(kind: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Whether what stands before each of the places ``start`` ends a sentence."""
    plain = (kind & (_SPACE | _CLOSER | _QUOTE)) == 0
    last = np.maximum.accumulate(np.where(plain, np.arange(len(kind)), -1))
    before = np.maximum(start - 1, 0)
    place = np.where(start > 0, last[before], -1)
    stop = np.where(place >= 0, kind[np.maximum(place, 0)], 0)
    apart = (kind[before] & _SPACE > 0) | (stop & _WIDE_STOP > 0)
    closing = kind[np.minimum(start, len(kind) - 1)] & _CLOSER
    return (stop & _STOP > 0) & apart & (closing == 0)


def word_numbers(marks: UInt8[np.ndarray, " token"]) -> Int32[np.ndarray, " token"]:
    """Number, from 0, of the word each token belongs to."""
    return np.maximum(np.cumsum(marks > INSIDE) - 1, 0).astype(np.int32)
