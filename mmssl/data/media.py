"""Files with coded pictures or sound, opened by PyAV: the same for recordings and for videos.

Decoders get one thread: FFmpeg's own threads make leaving early hang (PyAV issues 1849, 1861) and deadlock processes
that were forked (1962); files are decoded in several processes instead. Every container is closed by the ``with``.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl.data.limits import MediaError
from mmssl.data.stores import Extent
from mmssl.data.window import Window
from mmssl.errors import UserError

_TYPES = {"u8": "|u1", "s16": "=i2", "s32": "=i4", "s64": "=i8", "flt": "=f4", "dbl": "=f8"}
"""FFmpeg's sample formats as numpy types."""


@contextlib.contextmanager
def open_media(extent: Extent, seconds: float) -> Iterator[Any]:
    """The file as a PyAV container; opening it and each read may take so many seconds."""
    try:
        import av
    except ImportError:
        raise UserError(f"{extent.path} needs PyAV to be read: pip install 'mmssl[audio]'") from None
    with contextlib.ExitStack() as stack:
        file = extent.path if extent.alone else stack.enter_context(io.BufferedReader(Window(extent), 2**16))
        yield stack.enter_context(av.open(file, timeout=seconds, metadata_errors="replace"))


def sound_of(container: Any) -> Any:
    """The first sound track. Raises MediaError without one, or without a decoder for it."""
    if not container.streams.audio:
        raise MediaError("no sound", "it has no sound track")
    return _single_threaded(container.streams.audio[0])


def pictures_of(container: Any) -> Any:
    """The first track of moving pictures; a cover is none. Raises MediaError as :func:`sound_of`."""
    from av.stream import Disposition

    tracks = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not tracks:
        raise MediaError("no picture", "it has no picture track")
    return _single_threaded(tracks[0])


def _single_threaded(stream: Any) -> Any:
    if stream.codec_context is None:
        raise MediaError("unsupported", "no decoder is known for its coding")
    stream.codec_context.thread_count = 1
    return stream


def samples_of(frame: Any) -> Float32[np.ndarray, "frame channel"]:
    """The samples of one decoded packet, full scale at 1. Raises MediaError for types that FFmpeg has since added."""
    kind = frame.format.name.removesuffix("p")
    if kind not in _TYPES:
        raise MediaError("unsupported", f"its samples are of type {frame.format.name}")
    # one plane a channel, or all channels in one; either may be longer than its samples
    planes = [np.frombuffer(plane, _TYPES[kind]) for plane in frame.planes]
    channels = frame.layout.nb_channels
    if len(planes) == channels:
        samples = np.stack([plane[: frame.samples] for plane in planes], 1) if channels > 1 else planes[0][:, None]
    else:
        samples = planes[0].reshape(-1, channels)
    samples = samples[: frame.samples]
    if kind == "u8":
        return (samples.astype(np.float32) - 128) * np.float32(2.0**-7)
    if samples.dtype.kind == "i":
        return np.multiply(samples, np.float32(2.0 ** (1 - 8 * samples.itemsize)), dtype=np.float32)
    return samples if kind == "flt" else samples.astype(np.float32)
