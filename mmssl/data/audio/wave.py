"""Plain PCM in WAV files, read where it lies: no decoder stands between the file and the samples.

Layout: Microsoft & IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991), RIFF and WAVE; 64-bit
sizes in EBU Tech 3306 (RF64). Everything but little-endian integers and floats (mu-law, ADPCM, RIFX) is left to
soundfile.

**Wrong sizes.** Recorders that were cut off leave sizes of 0 or the largest number: then samples reach to the end of
the file. A size beyond the end of the file is cut there. A smaller size is believed.
"""

import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio.header import Header
from mmssl.data.limits import MediaError
from mmssl.data.stores import Extent

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN = 0xFFFFFFFF
# (format tag, bits) -> numpy type; numpy has no 24 bits, see _to_float
_CODES = {
    (_PCM, 8): "|u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "<i3",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_NAMES = {"|u1": "PCM_U8", "<i2": "PCM_16", "<i3": "PCM_24", "<i4": "PCM_32", "<f4": "FLOAT", "<f8": "DOUBLE"}
_BEGINNING = 256
"""Bytes read at first; nearly every header is shorter."""
_BLOCK = 2**22
"""Bytes read at a time where all samples are."""
_MOST_CHUNKS = 1000


def read_header(extent: Extent) -> Header | None:
    """The header of a plain PCM WAV file; None for any other file, however broken: soundfile says what is wrong."""
    beginning = extent.read(0, _BEGINNING)
    if beginning[:4] not in (b"RIFF", b"RF64") or beginning[8:12] != b"WAVE":
        return None
    unfinished = struct.unpack_from("<I", beginning, 4)[0] in (0, _UNKNOWN)
    place, form, long_size = 12, None, 0
    for _ in range(_MOST_CHUNKS):
        head = _at(extent, beginning, place, 40)
        if len(head) < 8:
            return None
        name, size = struct.unpack_from("<4sI", head)
        if name == b"data":
            break
        if name == b"ds64" and len(head) >= 24:
            long_size = struct.unpack_from("<Q", head, 16)[0]
        if name == b"fmt " and len(head) >= 24:
            form = head[8 : 8 + size]
        place += 8 + size + size % 2
    else:
        return None
    if form is None:
        return None
    left = extent.size - place - 8
    if size == _UNKNOWN:
        size = long_size or left
    elif size == 0 and unfinished:
        size = left
    return _header(form, place + 8, min(size, left))


def _at(extent: Extent, beginning: bytes, place: int, count: int) -> bytes:
    return beginning[place : place + count] if place + count <= len(beginning) else extent.read(place, count)


def _header(form: bytes, offset: int, size: int) -> Header | None:
    tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", form)
    # the first two bytes of an extensible format's GUID are the tag it stands for
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack_from("<H", form, 24)[0]
    code = _CODES.get((tag, bits))
    if code is None or not channels or not rate or block != channels * bits // 8:
        return None
    return Header("pcm", f"WAV/{_NAMES[code]}", rate, channels, size // block, offset=offset, code=code)


def read_frames(extent: Extent, header: Header, start: int, stop: int) -> Float32[np.ndarray, "frame channel"]:
    """Frames ``start`` to ``stop``. Raises MediaError when they are not there, OSError when they cannot be read."""
    block = header.channels * int(header.code[-1])
    raw = extent.read(header.offset + start * block, (stop - start) * block)
    if len(raw) != (stop - start) * block:
        raise MediaError("broken", "the file is shorter than it was")
    return _to_float(raw, header.code).reshape(-1, header.channels)


def blocks(extent: Extent, header: Header) -> Iterator[Float32[np.ndarray, "frame channel"]]:
    """All frames, some at a time."""
    step = max(1, _BLOCK // (header.channels * int(header.code[-1])))
    for start in range(0, header.frames, step):
        yield read_frames(extent, header, start, min(start + step, header.frames))


def _to_float(raw: bytes, code: str) -> Float32[np.ndarray, " sample"]:
    if code == "<i2":
        return np.multiply(np.frombuffer(raw, code), np.float32(2.0**-15), dtype=np.float32)
    if code == "<i3":
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return np.multiply(wide.view("<i4")[:, 0], np.float32(2.0**-31), dtype=np.float32)
    if code == "<i4":
        return np.multiply(np.frombuffer(raw, code), np.float32(2.0**-31), dtype=np.float32)
    if code == "|u1":
        return (np.frombuffer(raw, code).astype(np.float32) - 128) * np.float32(2.0**-7)
    return np.frombuffer(raw, code).astype(np.float32)
