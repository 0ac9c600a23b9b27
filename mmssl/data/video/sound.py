"""The sound of a video on the container's clock: one channel, 16 bits, at the rate of the clip.

Time stamps place the samples. A packet that comes later than the samples before it account for leaves a gap, filled
with silence and reported; one that comes earlier loses what was there already. Deviations below 2 ms are the rounding
of container clocks (Matroska: milliseconds) and move nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16

from mmssl.data.audio.decode import PEAK_LIMIT, mix
from mmssl.data.audio.resample import ratio, resample_blocks
from mmssl.data.limits import MediaError
from mmssl.data.media import open_media, samples_of, sound_of
from mmssl.data.stores import Extent

SLACK = 0.002
"""Seconds by which a time stamp may differ from the count of samples."""
PREROLL = 0.5
"""Seconds decoded before a part: codecs carry state from packet to packet, and filters reach back."""
SEEK_FROM = 5.0
"""A part that begins less than so many seconds after the beginning is reached by decoding."""
LONGEST_GAP = 600.0
"""Seconds of silence that a gap may stand for."""
_DRIFT = 0.005
"""Seconds that a rounded ratio of rates may shift the end of a clip."""


@dataclass
class Sound:
    """Samples from ``start`` seconds on."""

    codec: str
    rate: int = 0
    channels: int = 0
    start: float = 0.0
    frames: int = 0
    """At its own rate, gaps included."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    samples: Int16[np.ndarray, " sample"] = field(default_factory=lambda: np.zeros(0, np.int16))
    """At the rate of the clip."""

    @property
    def end(self) -> float:
        return self.start + self.frames / self.rate


def read_sound(
    extent: Extent, sample_rate: int, begin: float | None, stop: float | None, seconds: float, most: float = math.inf
) -> Sound:
    """Decode the sound, or its part from ``begin`` to ``stop`` and a little on both sides.

    Opening and each read may take ``seconds``. Raises MediaError, also where there are more than ``most`` seconds.
    """
    with open_media(extent, seconds) as container:
        stream = sound_of(container)
        sound = Sound(stream.codec_context.name)
        packets = _packets(container, stream, begin)
        blocks = _placed(packets, float(stream.time_base), sound, stop, most)
        first = next(blocks, None)
        if first is None:
            raise MediaError("broken", "its sound track has no samples")
        kept = [_to_int16(block) for block in resample_blocks(_chain(first, blocks), sound.rate, sample_rate)]
    sound.samples = np.concatenate(kept) if kept else sound.samples
    down, up = ratio(sound.rate, sample_rate)
    drift = abs(sound.rate / sample_rate * up / down - 1) * sound.frames / sound.rate
    if drift > _DRIFT:
        raise MediaError(
            "unsupported",
            f"{sound.rate} Hz cannot be brought to {sample_rate} Hz without a drift of {1000 * drift:.0f} ms: "
            "convert its sound to 44100 or 48000 Hz first",
        )
    return sound


def _packets(container: Any, stream: Any, begin: float | None) -> Iterator[Any]:
    """Decoded packets from some way before ``begin`` on; from the first one where that cannot be reached."""
    tick = stream.time_base
    origin = stream.start_time or 0
    if begin is not None and begin - float(origin * tick) > SEEK_FROM:
        container.seek(int((begin - PREROLL) / tick), stream=stream)
        packets = container.decode(stream)
        first = next(packets, None)
        if first is not None and first.pts is not None and float(first.pts * tick) <= begin - PREROLL / 2:
            yield first
            yield from packets
            return
        container.seek(min(origin, 0), stream=stream)
    yield from container.decode(stream)


def _placed(
    packets: Iterator[Any], tick: float, sound: Sound, stop: float | None, most: float
) -> Iterator[Float32[np.ndarray, " frame"]]:
    """One channel without gaps; what the stream is and where its gaps are goes into ``sound``."""
    for packet in packets:
        if not sound.rate:
            sound.rate, sound.channels = packet.sample_rate, packet.layout.nb_channels
            if sound.rate < 1000 or sound.channels < 1:
                raise MediaError("broken", f"its sound claims {sound.rate} Hz and {sound.channels} channels")
            sound.start = (packet.pts or 0) * tick
        if packet.sample_rate != sound.rate or packet.layout.nb_channels != sound.channels:
            raise MediaError(
                "unsupported",
                f"its sound changes from {sound.rate} Hz and {sound.channels} channels to {packet.sample_rate} Hz and "
                f"{packet.layout.nb_channels} on the way",
            )
        late = 0.0 if packet.pts is None else packet.pts * tick - sound.end
        block = mix(samples_of(packet))
        if abs(late) > max(SLACK, tick):
            if late > LONGEST_GAP:
                raise MediaError("broken", f"the time stamps of its sound jump by {late:,.0f} s")
            count = round(late * sound.rate)
            if count > 0:
                sound.gaps.append((sound.end, late))
                block = np.concatenate([np.zeros(count, np.float32), block])
            else:
                block = block[-count:]
        if not len(block):
            continue
        sound.frames += len(block)
        if sound.frames > most * sound.rate:
            raise MediaError("limit", f"its sound goes on beyond the limit of {most / 3600:.1f} h for a clip")
        yield block
        if stop is not None and sound.end > stop + PREROLL:
            return


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[Float32[np.ndarray, " frame"]]:
    yield first
    yield from rest


def _to_int16(samples: Float32[np.ndarray, " sample"]) -> Int16[np.ndarray, " sample"]:
    peak = float(np.abs(samples).max(initial=0.0))  # NaN if there is one
    if not peak <= PEAK_LIMIT:
        raise MediaError("broken", f"its sound has samples that are no numbers or far beyond full scale ({peak:.4g})")
    return np.clip(np.rint(samples * np.float32(2**15)), -(2**15), 2**15 - 1).astype(np.int16)
