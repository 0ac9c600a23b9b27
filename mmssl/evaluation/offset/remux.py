"""Put sound and picture right: the sound's samples are moved, the picture's packets are copied untouched.

A moved time stamp (``ffmpeg -itsoffset`` with stream copy) is invisible to programs that read samples from the start
of each track. Here the sound is decoded, silence is put before it or its beginning is cut off, and it is coded
again; the new track begins exactly where the picture track begins.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.limits import guarded
from mmssl.data.media import open_media, pictures_of, sound_of
from mmssl.data.stores import Extent
from mmssl.errors import UserError

SECONDS = 60.0
"""One read of the file may take so long."""
BLOCK = 1024
JITTER = 0.002
"""Time stamps of sound that are off by less are rounding, not gaps."""
BIT_RATE = 128_000
"""Of the new sound where the old one's is unknown."""
LEAST_BIT_RATE = 32_000


def shift_sound(source: Path, target: Path, offset_ms: float, *, overwrite: bool = False) -> list[str]:
    """Write ``target``: ``source`` with its sound moved so that its offset (positive: it leads) is gone.

    Returns sentences about what was left out or changed.

    Raises:
        UserError: when ``target`` exists (unless ``overwrite``) or is the source itself, or cannot be made.
        MediaError: when the source cannot be decoded to its end.
    """
    check_target(source, target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    staged = Path(name)
    try:
        with guarded(None):
            notes = _write(source, staged, offset_ms / 1000)
        staged.chmod(0o644)
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    return notes


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Raises UserError where writing ``target`` would destroy something."""
    if target.exists() and target.resolve() == source.resolve():
        raise UserError(f"--fix {target} is the video itself: choose another place, originals are never overwritten")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists: choose another --fix, or add --overwrite")


def _write(source: Path, target: Path, lead: float) -> list[str]:
    import av

    with _opened(source) as pictures, _opened(source) as sounds:
        video, audio = pictures_of(pictures), sound_of(sounds)
        first = _first_time(source)
        try:
            output = av.open(str(target), "w")
        except ValueError:
            raise UserError(f"{target}: no container is known by this ending: give one such as .mp4 or .mkv") from None
        with output:
            copied = output.add_stream_from_template(video)
            coded, notes = _sound_stream(output, audio)
            output.metadata.update(pictures.metadata)
            packets = _merge(
                _video_packets(pictures, video, copied), _audio_packets(sounds, audio, coded, first, lead)
            )  # fmt: skip
            for _, packet in packets:
                output.mux(packet)
        others = [stream.type for stream in pictures.streams if stream.index not in (video.index, audio.index)]
        if others:
            notes.append(f"left out: {', '.join(others)} (only the measured picture and sound are written)")
    return notes


def _opened(path: Path) -> Any:
    return open_media(Extent(str(path), 0, path.stat().st_size), SECONDS)


def _first_time(source: Path) -> Fraction:
    """When the first picture is shown, in seconds."""
    with _opened(source) as container:
        stream = pictures_of(container)
        times = [frame.pts for frame in itertools.islice(container.decode(stream), 1) if frame.pts is not None]
        return (times[0] if times else 0) * Fraction(stream.time_base)


def _sound_stream(output: Any, audio: Any) -> tuple[Any, list[str]]:
    """A stream coded as the source's sound is, or as the container prefers where that can't be written."""
    from av.codec import Codec
    from av.error import FFmpegError

    old, notes = audio.codec_context, []
    for name in dict.fromkeys((old.codec.canonical_name, output.default_audio_codec)):
        try:
            rates = Codec(name, "w").audio_rates
            rate = old.sample_rate if not rates or old.sample_rate in rates else max(rates)
            stream = output.add_stream(name, rate=rate, layout=old.layout.name)
            if not name.startswith("pcm"):
                stream.codec_context.bit_rate = max(old.bit_rate or BIT_RATE, LEAST_BIT_RATE)
            stream.codec_context.open()
        except (ValueError, FFmpegError):
            continue
        if name != old.codec.canonical_name or rate != old.sample_rate:
            notes.append(
                f"the sound is now {name} at {rate} Hz (was {old.codec.canonical_name} at {old.sample_rate} Hz)"
            )
        return stream, notes
    raise UserError(f"{output.name}: sound cannot be written to such a file: give another ending, such as .mkv")


def _video_packets(container: Any, stream: Any, copied: Any) -> Iterator[tuple[float, Any]]:
    """(seconds, packet), untouched."""
    for packet in container.demux(stream):
        if packet.dts is None:
            continue
        packet.stream = copied
        yield float(packet.dts * packet.time_base), packet


def _audio_packets(
    container: Any, stream: Any, coded: Any, first: Fraction, lead: float
) -> Iterator[tuple[float, Any]]:
    """(seconds, packet) of the moved sound."""
    import av

    context = coded.codec_context
    rate, layout = context.sample_rate, context.layout.name
    size = context.frame_size or BLOCK
    resampler = av.AudioResampler(format=context.format.name, layout=layout, rate=rate, frame_size=size)
    written, base = 0, Fraction(1, rate)
    start = round(first * rate)
    for block in itertools.chain(_moved(container, stream, first, lead), (None,)):
        for frame in resampler.resample(_frame(block, stream, layout) if block is not None else None):
            frame.pts, frame.time_base = start + written, base
            written += frame.samples
            yield from _timed(coded.encode(frame))
    yield from _timed(coded.encode(None))


def _timed(packets: list[Any]) -> Iterator[tuple[float, Any]]:
    for packet in packets:
        yield float((packet.dts or 0) * packet.time_base), packet


def _frame(block: np.ndarray, stream: Any, layout: str) -> Any:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T), format="fltp", layout=layout)
    frame.sample_rate = stream.codec_context.sample_rate
    frame.pts = None
    return frame


def _moved(container: Any, stream: Any, first: Fraction, lead: float) -> Iterator[np.ndarray]:
    """Samples ``[sample, channel]`` from the first picture on: moved by ``lead`` seconds, gaps filled with silence."""
    from mmssl.data.media import samples_of

    rate = stream.codec_context.sample_rate
    done = 0
    for frame in container.decode(stream):
        block = samples_of(frame)
        place = done
        if frame.pts is not None:
            place = round((float(frame.pts * frame.time_base - first) + lead) * rate)
        if abs(place - done) <= JITTER * rate:
            place = done
        if place < done:  # before the first picture, or heard twice
            block = block[done - place :]
            place = done
        if not len(block):
            continue
        for length in _split(place - done, rate):
            yield np.zeros((length, block.shape[1]), np.float32)
        yield block
        done = place + len(block)


def _split(count: int, most: int) -> Iterator[int]:
    """``count`` in pieces of at most ``most``."""
    while count > 0:
        yield min(count, most)
        count -= most


def _merge(*streams: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """In the order of time, so that the writer need not hold packets back."""
    import heapq

    return heapq.merge(*streams, key=lambda pair: pair[0])
