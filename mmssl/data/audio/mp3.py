"""A segment of an MP3 file: its packets are cut out of the file here, and decoded by FFmpeg in a single call.

That takes half the time of a call for each packet of 26 ms, and it is exact at every bit rate, because a packet says how
far back its bits begin (ISO/IEC 11172-3:1993, 2.4.1 and 2.4.2; 13818-3:1998 for the low sample rates): what is decoded
before the segment are the packets that it needs and no fixed time. Whatever is unusual is left to :mod:`pyav`.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio.header import Header
from mmssl.data.media import open_media, sound_of
from mmssl.data.stores import Extent

NAME = "MP3/mp3float"
"""The format in a header."""
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Of Layer III by the four bits in a header; by whether it is MPEG-1, that is, of 32 kHz or more."""
_REACH = 1.0
"""Seconds before a segment from which on packets are cut: where its bits begin is known only then."""
_SPARE = 2
"""Packets more: FFmpeg keeps the bits of one that it cannot decode, but not of the first."""
_CHUNK = 2**16


@dataclass(frozen=True)
class _Packets:
    """Packets in a row: number i lies from ``begins[i]`` to ``begins[i + 1]`` in ``raw``, ``length`` frames each."""

    raw: bytes
    begins: list[int]
    length: int

    def first_needed(self, wanted: int) -> int:
        """The packet to begin with, so that number ``wanted`` decodes as it does from the start; negative if none."""
        # windows overlap by a granule and the filter bank's reach over another: 2 granules, of 576 frames each
        first = max(0, wanted - 1152 // self.length)
        at = self.begins[first]
        head = self.raw[at : at + 8]
        side, checked = _side(head, self.length), 0 if head[1] & 1 else 2
        # how many bytes back its bits begin, a number of 9 bits, of 8 at the low sample rates
        back = int.from_bytes(head[4 + checked : 6 + checked], "big") >> (7 if self.length == 1152 else 8)
        while back > 0 and first >= 0:
            first -= 1
            back -= self.begins[first + 1] - self.begins[first] - 4 - side - checked
        return first - _SPARE


def _side(head: bytes, length: int) -> int:
    """Bytes between a header and the bits of the sound: the side information, 2.4.1.7."""
    mono = head[3] >> 6 == 3
    if length == 1152:
        return 17 if mono else 32
    return 9 if mono else 17


def read_frames(
    extent: Extent, header: Header, start: int, stop: int, seconds: float
) -> Float32[np.ndarray, "frame channel"] | None:
    """Frames ``start`` to ``stop``; None when these bytes are no plain row of packets."""
    if header.format != NAME or not start < stop <= header.frames:
        return None
    with open_media(extent, seconds, "mp3") as container:
        stream = sound_of(container)
        ticks = float(1 / stream.time_base) / header.rate
        ahead = max(0, start - round(_REACH * header.rate))
        if ahead:
            container.seek(header.offset + int(ahead * ticks), stream=stream)
        packet = next(container.demux(stream))
        if packet.pts is None or packet.pos is None:
            return None
        place, begin = round((packet.pts - header.offset) / ticks), packet.pos
    packets = _cut(extent, header, begin, stop - place)
    if packets is None or place > start:
        return None
    wanted = (start - place) // packets.length
    first = packets.first_needed(wanted)
    if first < 0:
        if ahead:
            return None
        first = 0
    found = _decoded(packets, first, wanted, header)
    return None if found is None else found[start - place - wanted * packets.length :][: stop - start]


def _cut(extent: Extent, header: Header, at: int, frames: int) -> _Packets | None:
    """Packets from byte ``at`` of the file on, for at least so many frames."""
    raw = extent.read(at, _CHUNK)
    length = 1152 if header.rate >= 32_000 else 576
    sizes, mark = _sizes(header.rate), raw[:2]
    if len(mark) < 2 or mark[0] != 0xFF or mark[1] & 0xFE not in (0xFA, 0xF2, 0xE2):  # Layer III of MPEG-1, 2, 2.5
        return None
    begins = [0]
    begin = 0
    for _ in range(-(-frames // length)):
        if begin + 4 > len(raw):
            raw += extent.read(at + len(raw), len(raw))
        size = sizes.get(raw[begin + 2]) if raw[begin : begin + 2] == mark and begin + 4 <= len(raw) else None
        if size is None:
            return None
        begin += size
        begins.append(begin)
    if begin > len(raw):
        raw += extent.read(at + len(raw), begin - len(raw))
    return _Packets(raw, begins, length) if begin <= len(raw) else None


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


def _decoded(
    packets: _Packets, first: int, wanted: int, header: Header
) -> Float32[np.ndarray, "frame channel"] | None:
    """The frames of packet ``wanted`` and of all after it, decoded from packet ``first`` on."""
    import av

    decoder: Any = av.CodecContext.create("mp3float", "r")
    raw = packets.raw[packets.begins[first] : packets.begins[-1]]
    try:
        decoded = decoder.decode(av.Packet(raw))
    except av.FFmpegError:  # it says nothing of the place
        return None
    planes = [frame.planes for frame in decoded[wanted - first :]]
    count = len(planes) * packets.length
    if (
        len(decoded) != len(packets.begins) - 1 - first
        or (decoded[-1].format.name, decoded[-1].sample_rate) != ("fltp", header.rate)
        or any(len(plane) != header.channels for plane in planes)
    ):
        return None
    found = np.empty((count, header.channels), np.float32)
    for channel in range(header.channels):
        joined = np.frombuffer(b"".join([plane[channel] for plane in planes]), np.float32)
        if len(joined) != count:
            return None
        found[:, channel] = joined
    return found
