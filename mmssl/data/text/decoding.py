"""From bytes to lines of text: which encoding, what is removed, and never more than a piece of a line in memory.

- UTF-8, with or without a byte order mark; UTF-16 and UTF-32 by theirs.
- What is not valid UTF-8 anywhere is read as Windows-1252 (Latin-1 where one of the five bytes that Windows-1252 does
  not define occurs), and the report says so.
- NUL characters are removed, and the report says so. A file of which more than 30 % is NUL (binary, or UTF-16 without
  a mark) or one that is not UTF-8 and has more than 10 % other control characters is not text.
- Line ends are \\n, \\r\\n or \\r. Half a surrogate pair becomes U+FFFD.
"""

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase

from mmssl.data.text.files import chunks

LONGEST_LINE = 2**18
"""Characters; a longer line is handed on in parts, cut after white space where there is some."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(set(range(1, 32)) - set(b"\t\n\r\f\v\x1a\x1b")) + b"\x7f"
_NOT_WINDOWS = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))
MAX_NUL_SHARE = 0.3
MAX_CONTROL_SHARE = 0.1


class NotTextError(Exception):
    """A file that holds no text; the message says why. ``kind`` as in :class:`~mmssl.data.skipped.Skipped`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Encoding:
    """What one look at all bytes of a file tells."""

    name: str
    size: int
    nul: int
    digest: bytes
    head: bytes
    """Its first megabyte."""


def look_at_bytes(stream: BufferedIOBase) -> Encoding:
    """Read a stream to its end and find its encoding.

    Raises:
        NotTextError: when it is empty or not text.
    """
    digest = hashlib.blake2b(digest_size=16)
    size = nul = controls = 0
    head, mark = b"", None
    windows = True
    decoder = None
    for chunk in chunks(stream):
        if not size:
            head = chunk
            mark = next((name for start, name in _MARKS if chunk.startswith(start)), None)
            decoder = codecs.getincrementaldecoder(mark or "utf-8")()
        digest.update(chunk)
        size += len(chunk)
        nul += chunk.count(0)
        controls += len(chunk) - len(chunk.translate(None, _CONTROLS))
        windows = windows and len(chunk.translate(None, _NOT_WINDOWS)) == len(chunk)
        decoder = _try(decoder, chunk)
    if not size:
        raise NotTextError("empty", "the file is empty")
    decoder = _try(decoder, b"", final=True)
    if decoder is not None and mark in ("utf-16", "utf-32"):
        return Encoding(mark, size, 0, digest.digest(), head)
    if nul > MAX_NUL_SHARE * size:
        remedy = "if it is UTF-16 without a byte order mark, write it again as UTF-8"
        raise NotTextError("broken", f"{nul / size:.0%} of it are NUL bytes: {remedy}")
    if decoder is None and (controls > MAX_CONTROL_SHARE * size or mark in ("utf-16", "utf-32")):
        raise NotTextError("broken", f"it is not valid {mark or 'UTF-8'} and looks binary: write it again as UTF-8")
    name = mark or "utf-8"
    if decoder is None:
        name = "windows-1252" if windows else "latin-1"
    return Encoding(name, size, nul, digest.digest(), head)


def _try(
    decoder: codecs.IncrementalDecoder | None, chunk: bytes, final: bool = False
) -> "codecs.IncrementalDecoder | None":
    """Feed a decoder; None once it has failed."""
    if decoder is None:
        return None
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return None
    return decoder


def decode(stream: BufferedIOBase, encoding: str) -> Iterator[str]:
    """The text in chunks, without NUL characters and with \\n as the only line end."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    carriage = ""
    for chunk in chunks(stream):
        text = carriage + decoder.decode(chunk)
        # a \r at the end may be half of \r\n
        carriage = "\r" if text.endswith("\r") else ""
        yield clean(text[: len(text) - len(carriage)])
    yield clean(carriage + decoder.decode(b"", True))


def clean(text: str) -> str:
    """Without NUL characters and with \\n as the only line end."""
    return text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")


def whole_characters(text: str) -> str:
    """Halves of surrogate pairs, as JSON may spell them, replaced: no tokenizer takes them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def lines(texts: Iterator[str], longest: int = LONGEST_LINE) -> Iterator[tuple[str, bool]]:
    """(line without its end, True) for every line; a line that is too long comes in parts, all but the last False."""
    rest = ""
    for text in texts:
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield from in_parts(line, longest)
        if len(rest) > longest:
            *first, (rest, _) = in_parts(rest, longest)
            yield from first
    if rest:
        yield from in_parts(rest, longest)


def in_parts(line: str, longest: int = LONGEST_LINE) -> Iterator[tuple[str, bool]]:
    """Parts of at most ``longest`` characters, cut after white space where there is some; the last comes with True."""
    start = 0
    while len(line) - start > longest:
        cut = max(line.rfind(space, start, start + longest) for space in " \t\n\u3000") + 1
        cut = cut if cut > start else start + longest
        yield line[start:cut], False
        start = cut
    yield line[start:], True
