"""Damage for valid files, drawn from a generator: bytes anywhere, numbers of lengths, JSON values."""

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)


def flip_bits(raw: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)


def set_bytes(raw: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 2, 4))):
        raw[draw.randrange(len(raw))] = draw.choice((0, 0xFF, 0x7F, 0x80, draw.randrange(256)))


def truncate(raw: bytearray, draw: random.Random) -> None:
    del raw[draw.choice((draw.randrange(len(raw)), max(0, len(raw) - draw.randrange(1, 64)))) :]


def _range(raw: bytearray, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(raw))
    return start, min(len(raw), start + draw.choice((1, 4, 16, 100, 1000)))


def delete(raw: bytearray, draw: random.Random) -> None:
    start, stop = _range(raw, draw)
    del raw[start:stop]


def duplicate(raw: bytearray, draw: random.Random) -> None:
    start, stop = _range(raw, draw)
    place = draw.randrange(len(raw))
    raw[place:place] = raw[start:stop] * draw.choice((1, 1, 2, 50))


def blank(raw: bytearray, draw: random.Random) -> None:
    start, stop = _range(raw, draw)
    raw[start:stop] = bytes([draw.choice((0, 0xFF))]) * (stop - start)


def insert(raw: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(raw) + 1)
    raw[place:place] = draw.randbytes(draw.choice((1, 2, 7, 64, 500)))


def edit_number(raw: bytearray, draw: random.Random) -> None:
    """Where lengths, sizes and counts stand: mostly near the beginning, 2, 4 or 8 bytes in either order."""
    kind = draw.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(kind)
    if len(raw) <= size:
        return
    place = draw.randrange(
        min(len(raw), draw.choice((64, 256, 10**9))) - size if len(raw) > 64 + size else len(raw) - size
    )
    old = struct.unpack_from(kind, raw, place)[0]
    new = draw.choice((*EXTREMES, old + 1, old - 1, 2 * old, old // 2, old << 8))
    struct.pack_into(kind, raw, place, new % (1 << 8 * size))


MUTATORS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, set_bytes, truncate, delete, duplicate, blank, insert, edit_number, edit_number, edit_number,
)  # fmt: skip


def damaged(seeds: list[bytes], draw: random.Random) -> bytes:
    """One of the files with one to four kinds of damage, or the beginning of one and the end of another."""
    raw = bytearray(draw.choice(seeds))
    if draw.random() < 0.1:
        other = draw.choice(seeds)
        raw = raw[: draw.randrange(len(raw) + 1)] + other[draw.randrange(len(other) + 1) :]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if raw:
            draw.choice(MUTATORS)(raw, draw)
    return bytes(raw)


def with_png_sums(raw: bytes) -> bytes:
    """The same PNG with checksums that fit again, so that damage reaches beyond them."""
    fixed, place = bytearray(raw), 8
    while place + 12 <= len(fixed):
        end = place + 8 + struct.unpack_from(">I", fixed, place)[0]
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


def _ogg_table() -> list[int]:
    table = []
    for register in range(256):
        register <<= 24
        for _ in range(8):
            register = (register << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if register >> 31 else 0)
        table.append(register)
    return table


_OGG_TABLE = _ogg_table()


def with_ogg_sums(raw: bytes, serial: int | None = None) -> bytes:
    """The same Ogg file with page checksums that fit again (RFC 3533, section 6), so that decoders see the damage; and
    with this number of the stream, where encoders put a random one."""
    fixed, place = bytearray(raw), raw.find(b"OggS")
    while 0 <= place <= len(fixed) - 27:
        body = place + 27 + fixed[place + 26]
        end = body + sum(fixed[place + 27 : body])
        if end <= len(fixed):
            if serial is not None:
                struct.pack_into("<I", fixed, place + 14, serial)
            fixed[place + 22 : place + 26] = bytes(4)
            total = 0
            for byte in fixed[place:end]:
                total = (total << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[total >> 24 ^ byte]
            struct.pack_into("<I", fixed, place + 22, total)
        place = fixed.find(b"OggS", end if end <= len(fixed) else place + 4)
    return bytes(fixed)


HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 10**18, 10**30, -(10**18), 0.5, -1e308, 1e308, float("nan"), float("inf"), "", "x",
    "../../../etc/passwd", "\0", "\x1b[2J", "<script>", "x" * 5000, [], {}, [[]], [None], {"": {}}, [1, 2, 3], [-1, 0],
)  # fmt: skip


def _near(value: Any, data: Any, draw: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, 2 * value, value // 2, -value, draw.randrange(10)))
    if isinstance(value, float):
        return draw.choice((2 * value, value / 2, -value, 1 - value, value + 1, draw.random(), 0.0, 1.0))
    if isinstance(value, list):
        return draw.choice((value[1:], value + value[:1], value[::-1], sorted(value, key=str)))
    # a string or a table: another one of the file
    others = [holder[key] for holder, key in _places(data) if isinstance(holder[key], type(value))]
    return json.loads(json.dumps(draw.choice(others)))


def damaged_json(text: str, draw: random.Random, near: float = 0.4) -> str:
    """JSON in which values were replaced, lost, doubled, or put elsewhere; now and then it is no JSON at all.

    ``near``: how often a value is replaced by another one of its type, which readers that check types let through.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # a line that was damaged before
        return text
    for _ in range(draw.choice((1, 1, 2, 5))):
        places = list(_places(data))
        if not places:
            break
        holder, key = draw.choice(places)
        how = draw.random()
        if draw.random() < near:
            holder[key] = _near(holder[key], data, draw)
        elif how < 0.7:
            holder[key] = copy.deepcopy(draw.choice(HOSTILE))  # it may be damaged in its turn
        elif how < 0.8:
            del holder[key]
        elif how < 0.9 and isinstance(holder, dict):
            holder[draw.choice(("", "x", "\0", "__class__", f"{key}_"))] = holder[key]
        else:
            other, there = draw.choice(places)
            holder[key] = json.loads(json.dumps(other.get(there) if isinstance(other, dict) else None))
    written = json.dumps(data)
    if draw.random() < 0.1:
        written = draw.choice(
            ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "", "null", "[]", written[: len(written) // 2])
        )
    return written


def _places(data: Any) -> Any:
    if isinstance(data, dict | list):
        for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
            yield data, key
            yield from _places(value)
