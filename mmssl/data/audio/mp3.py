"""A segment of an MP3 file: its packets are cut out of the file here, and decoded by FFmpeg in a single call.

That takes two thirds of the time of a call for each packet, and it is exact at every bit rate, because a packet says
how far back its bits begin (ISO/IEC 11172-3:1993, 2.4.1 and 2.4.2; 13818-3:1998 for the low sample rates): what is
decoded before the segment are the packets that it needs and no fixed time. Whatever is unusual is left to :mod:`pyav`.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio.header import Header
from mmssl.data.stores import Extent

NAME = "MP3/mp3float"
"""The format in a header."""
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Of Layer III by the four bits in a header; by whether it is MPEG-1, that is, of 32 kHz or more."""
_MARKS = (0xFA, 0xF2, 0xE2)
"""The second byte but for its last bit: Layer III of MPEG-1, MPEG-2 and MPEG-2.5."""
_SPARE = 2
"""Packets more: FFmpeg keeps the bits of one that it cannot decode, but not of the first."""
_TICKS = 14_112_000
"""FFmpeg's timestamps a second: a multiple of all sample rates."""
_CHUNK = 2**16


def read_frames(extent: Extent, header: Header, start: int, stop: int) -> Float32[np.ndarray, "frame channel"] | None:
    """Frames ``start`` to ``stop``; None when the file's bytes are no plain row of packets up to there."""
    if header.format != NAME or header.begin < 0 or not start < stop <= header.frames:
        return None
    mark = extent.read(header.begin, 2)
    if len(mark) < 2 or mark[0] != 0xFF or mark[1] & 0xFE not in _MARKS:
        return None
    length = 1152 if header.rate >= 32_000 else 576
    padding = header.offset * header.rate // _TICKS  # by the encoder, before frame 0
    wanted = (start + padding) // length
    begins = _walk(extent, header, mark, -(-(stop + padding) // length))
    if begins is None:
        return None
    first = _first_needed(extent, begins, wanted, length)
    raw = extent.read(begins[first], begins[-1] - begins[first])
    found = _decoded(raw, len(begins) - 1 - first, wanted - first, header, length)
    return None if found is None else found[start + padding - wanted * length :][: stop - start]


def _walk(extent: Extent, header: Header, mark: bytes, count: int) -> list[int] | None:
    """The bytes where so many packets from the first on begin, and the one where the last ends."""
    sizes = _sizes(header.rate)
    base, begin, raw = header.begin, 0, b""
    begins = [base]
    for _ in range(count):
        if begin + 3 > len(raw):
            base, begin = base + begin, 0
            raw = extent.read(base, _CHUNK)
        if raw[begin : begin + 2] != mark or len(raw) < begin + 3 or raw[begin + 2] not in sizes:
            return None
        begin += sizes[raw[begin + 2]]
        begins.append(base + begin)
    return begins if begins[-1] <= extent.size else None


@functools.cache
def _sizes(rate: int) -> dict[int, int]:
    """Bytes of a packet by the third byte of its header: 4 bits for kbit/s, 2 for the rate, padding, a private bit."""
    high = rate >= 32_000
    index = {44_100: 0, 48_000: 1, 32_000: 2}.get(rate * (1 if high else 2 if rate > 12_000 else 4))
    if index is None:
        return {}
    length = 1152 if high else 576
    return {
        number << 4 | index << 2 | padding << 1 | private: 125 * length * kilobits // rate + padding
        for number, kilobits in enumerate(_KILOBITS[high])
        if number
        for padding in (0, 1)
        for private in (0, 1)
    }


def _first_needed(extent: Extent, begins: list[int], wanted: int, length: int) -> int:
    """The packet to begin with, so that number ``wanted`` decodes as it does from the start."""
    # windows overlap by a granule of 576 frames, and the filter bank reaches over another one
    first = max(0, wanted - 1152 // length)
    head = extent.read(begins[first], 8)
    checked, mono = 0 if head[1] & 1 else 2, head[3] >> 6 == 3
    # between the header and the bits of the sound, 2.4.1.7
    side = (17 if mono else 32) if length == 1152 else (9 if mono else 17)
    # how many bytes back its bits begin, a number of 9 bits, of 8 at the low sample rates
    back = int.from_bytes(head[4 + checked : 6 + checked], "big") >> (7 if length == 1152 else 8)
    while back > 0 and first > 0:
        first -= 1
        back -= begins[first + 1] - begins[first] - 4 - checked - side
    return max(0, first - _SPARE)


def _decoded(
    raw: bytes, count: int, dropped: int, header: Header, length: int
) -> Float32[np.ndarray, "frame channel"] | None:
    """The frames of ``count`` packets of ``length`` frames each, without those of the first ``dropped``."""
    import av
    from av.error import FFmpegError

    decoder: Any = av.CodecContext.create("mp3float", "r")
    try:
        decoded = decoder.decode(av.Packet(raw))
    except FFmpegError:  # it says nothing of the place
        return None
    planes = [frame.planes for frame in decoded[dropped:]]
    if (
        len(decoded) != count
        or (decoded[-1].format.name, decoded[-1].sample_rate) != ("fltp", header.rate)
        or any(len(plane) != header.channels for plane in planes)
    ):
        return None
    found = np.empty((len(planes) * length, header.channels), np.float32)
    for channel in range(header.channels):
        joined = np.frombuffer(b"".join([plane[channel] for plane in planes]), np.float32)
        if len(joined) != len(found):
            return None
        found[:, channel] = joined
    return found
