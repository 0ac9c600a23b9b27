"""A segment of an MP3 file: its packets are cut out of the file here, and decoded by FFmpeg in a single call.

That takes half the time of a call for each packet of 26 ms, and it is exact at every bit rate, because a packet says how
far back its bits begin (ISO/IEC 11172-3:1993, 2.4.1 and 2.4.2; 13818-3:1998 for the low sample rates): what is decoded
before the segment are the packets that it needs and no fixed time. Whatever is unusual is left to :mod:`pyav`.
"""

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
_SAME = 0xFFFE0C00
"""What all headers of a file share: the mark of a beginning, version, layer and sample rate."""
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
        ahead = max(0, start - round(_REACH * header.rate))
        if ahead:
            container.seek(header.offset + int(ahead / header.rate / stream.time_base), stream=stream)
        packet = next(container.demux(stream))
        if packet.pts is None or packet.pos is None:
            return None
        place = round((packet.pts - header.offset) * stream.time_base * header.rate)
        packets = _cut(extent, header, packet.pos, stop - place)
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
    mark = int.from_bytes(raw[:4], "big") & _SAME
    high = header.rate >= 32_000
    # Layer III, and MPEG-1 for the high sample rates only
    if mark >> 17 & 3 != 1 or (mark >> 19 & 3 == 3) != high:
        return None
    length = 1152 if high else 576
    sizes = [125 * length * rate // header.rate for rate in _KILOBITS[high]]
    begins = [0]
    begin = 0
    for _ in range(-(-frames // length)):
        if begin + 4 > len(raw):
            raw += extent.read(at + len(raw), len(raw))
        head = int.from_bytes(raw[begin : begin + 4], "big")
        index = head >> 12 & 15
        if head & _SAME != mark or not 0 < index < 15:
            return None
        begin += sizes[index] + (head >> 9 & 1)
        begins.append(begin)
    if begin > len(raw):
        raw += extent.read(at + len(raw), begin - len(raw))
    return _Packets(raw, begins, length) if begin <= len(raw) else None


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
    plain = ("fltp", header.rate, header.channels, packets.length)
    if len(decoded) != len(packets.begins) - 1 - first or any(
        (frame.format.name, frame.sample_rate, frame.layout.nb_channels, frame.samples) != plain
        for frame in (decoded[0], decoded[-1])
    ):
        return None
    planes = [frame.planes for frame in decoded[wanted - first :]]
    count = len(planes) * packets.length
    found = np.empty((count, header.channels), np.float32)
    for channel in range(header.channels):
        joined = np.frombuffer(b"".join([plane[channel] for plane in planes]), np.float32)
        if len(joined) != count:
            return None
        found[:, channel] = joined
    return found
