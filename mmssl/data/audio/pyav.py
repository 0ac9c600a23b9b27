"""Recordings that soundfile does not know or cannot seek in exactly, by PyAV: MP3, M4A, the sound of video files.

Frame 0 is the first one that decodes from the start of the file, and a timestamp places every later one, so that a gap
in the timestamps is silence. Reading a segment seeks to a little before it and decodes up to it: the codecs keep state
(overlapping windows, a reservoir of bits), and only what was decoded some packets after the seek is what decoding from
the start gives. Containers whose clock is coarser than a frame (Matroska, WebM: milliseconds) cannot name a frame:
these are decoded from the start, and counted.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio import mp3
from mmssl.data.audio.header import Header
from mmssl.data.limits import MediaError
from mmssl.data.media import open_media, samples_of, sound_of
from mmssl.data.stores import Extent

PREROLL = 0.3
"""Seconds decoded and thrown away before a segment: the bit reservoir of MP3 reaches back 9 packets of 26 ms."""
_LONGEST_GAP = 600
"""Seconds of silence that a gap in the timestamps may stand for."""


def read_header(extent: Extent, seconds: float) -> Header:
    """What the container says, and the rate and channels of the first packet that decodes. Raises MediaError."""
    with open_media(extent, seconds) as container:
        stream = sound_of(container)
        begin, frame = -1, None
        for packet in container.demux(stream):
            begin = packet.pos if begin < 0 and packet.pos is not None else begin
            frame = next(iter(packet.decode()), None)
            if frame is not None:
                break
        if frame is None or frame.sample_rate < 1:
            raise MediaError("broken", "it has no samples")
        rate, tick = frame.sample_rate, stream.time_base
        length = float(stream.duration * tick) if stream.duration else (container.duration or 0) / 1e6
        origin = frame.pts or 0
        late = float(origin * tick) - (container.start_time or 0) / 1e6
        form = f"{container.format.name.split(',')[0].upper()}/{stream.codec_context.name}"
        frames = max(round(length * rate), frame.samples)
        return Header("pyav", form, rate, frame.layout.nb_channels, frames, start=late, offset=origin, begin=begin)


def read_frames(
    extent: Extent, header: Header, start: int, stop: int, seconds: float
) -> Float32[np.ndarray, "frame channel"]:
    """Frames ``start`` to ``stop``; fewer when the recording ends before."""
    found = mp3.read_frames(extent, header, start, stop)
    if found is not None:
        return found
    found = np.zeros((stop - start, header.channels), np.float32)
    with open_media(extent, seconds) as container:
        stream = sound_of(container)
        packets = _from(container, stream, header, start)
        end = start
        for place, frame in packets:
            low, high = max(place, start), min(place + frame.samples, stop)
            if low < high:
                found[low - start : high - start] = samples_of(frame)[low - place : high - place]
                end = high
            if place + frame.samples >= stop:
                return found
    return found[: end - start]


def _from(container: Any, stream: Any, header: Header, start: int) -> Iterator[tuple[int, Any]]:
    """Packets from some way before frame ``start`` on, or from the first one."""
    margin = round(PREROLL * header.rate)
    tick = stream.time_base
    if start > margin and tick * header.rate <= 1:
        container.seek(header.offset + int((start - margin) / header.rate / tick), stream=stream)
        packets = _placed(container, stream, header)
        first = next(packets, None)
        if first is not None and first[0] <= start - margin // 2:
            yield first
            yield from packets
            return
        # an index that is missing or wrong: from the first packet
        container.seek(header.offset, stream=stream)
    yield from _placed(container, stream, header)


def blocks(extent: Extent, header: Header, seconds: float) -> Iterator[Float32[np.ndarray, "frame channel"]]:
    """All frames from the start, a packet at a time."""
    with open_media(extent, seconds) as container:
        end = 0
        for place, frame in _placed(container, sound_of(container), header):
            if place > end:
                if place - end > _LONGEST_GAP * header.rate:
                    raise MediaError("broken", f"its timestamps jump by {(place - end) / header.rate:,.0f} s")
                yield np.zeros((place - end, header.channels), np.float32)
            if place + frame.samples > end:
                yield samples_of(frame)[max(0, end - place) :]
                end = place + frame.samples


def _placed(container: Any, stream: Any, header: Header) -> Iterator[tuple[int, Any]]:
    """Decoded packets and the number of the first frame of each."""
    scale = stream.time_base * header.rate
    up, down = scale.numerator, scale.denominator
    place = 0
    for frame in container.decode(stream):
        if frame.sample_rate != header.rate or frame.layout.nb_channels != header.channels:
            raise MediaError(
                "unsupported",
                f"it changes from {header.rate} Hz and {header.channels} channels to {frame.sample_rate} Hz and "
                f"{frame.layout.nb_channels} on the way",
            )
        if up <= down and frame.pts is not None:
            # to the nearest frame, in whole numbers
            place = (2 * (frame.pts - header.offset) * up + down) // (2 * down)
        yield place, frame
        place += frame.samples
