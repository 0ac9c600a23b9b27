"""How running text is cut into documents. A document is what a context may not reach beyond.

``documents="auto"`` decides for each plain text file by what is in it:

- a file of up to 20,000 characters is one document ("file"), unless it is the only file;
- a larger one, or the only one, in whose first megabyte at least every 20th line is blank, is cut at blank lines
  ("block"), any other at line ends ("line"). Blocks or lines of one file are joined with those that follow until the
  document has at least 1,000 characters: a heading stays with what it heads, short lines of dialogue stay together, and
  a context of 128 tokens is seldom cut short. WikiText becomes sections of articles, a book short scenes.

Said outright, "file", "line" and "block" cut exactly there and join nothing. Whatever the rule, a document ends after
262,144 characters, at the end of a line or else after white space, so that none has to fit into memory whole; and none
ever reaches over the end of a file.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from mmssl.data.text.decoding import LONGEST_LINE, clean, lines

Documents = Literal["auto", "file", "line", "block"]
SMALL_FILE = 20_000
BLANK_EVERY = 20
JOIN = 1_000
LONGEST_DOCUMENT = LONGEST_LINE


class Cut(NamedTuple):
    """A document: its text, the line (from 1) it begins in, and which one it is of those that begin in that line."""

    text: str
    line: int
    part: int


def choose_rule(head: bytes, encoding: str, size: int, *, alone: bool) -> tuple[Literal["file", "line", "block"], int]:
    """The rule of "auto" for one file: (rule, characters up to which blocks or lines are joined).

    Args:
        head: its first megabyte.
        encoding: of the file.
        size: its bytes.
        alone: whether it is the only file there is.
    """
    text = clean(head.decode(encoding, "replace"))
    if len(head) >= size and len(text) <= SMALL_FILE and not alone:
        return "file", 0
    every = text.rstrip("\n").split("\n")
    blank = sum(1 for line in every if not line.strip())
    return ("block" if blank * BLANK_EVERY >= len(every) else "line"), JOIN


def cut(texts: Iterator[str], rule: Literal["file", "line", "block"], join: int = 0) -> Iterator[Cut]:
    """Cut decoded text into documents; those of white space alone are left out.

    Args:
        texts: the text of one file in chunks.
        rule: where documents end.
        join: blocks or lines are joined until a document has so many characters.
    """
    held: list[str] = []
    size, start, number = 0, 1, 1
    last_line, part = 0, 0

    def end() -> Iterator[Cut]:
        nonlocal last_line, part, size
        text = "\n".join(held).strip()
        held.clear()
        size = 0
        if text:
            part = part + 1 if start == last_line else 0
            last_line = start
            yield Cut(text, start, part)

    for line, whole in lines(texts):
        blank = whole and not line.strip()
        if held and size + len(line) > LONGEST_DOCUMENT:
            yield from end()
        if blank and rule == "block" and size >= join:
            yield from end()
        if held or not blank:
            start = start if held else number
            held.append(line)
            size += len(line) + 1
        # the rest of a long line begins a document of its own
        if not whole or (rule == "line" and size >= join):
            yield from end()
        number += whole
    yield from end()
