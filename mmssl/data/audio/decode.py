"""Any recording to float32 in [-1, 1]: its header, a segment of it by seeking, or all of it block by block.

A segment is exactly what slicing the whole recording gives, in every format but AAC: its decoder fills some bands with
noise of its own (perceptual noise substitution), which depends on where decoding began. Channels are mixed by their
mean.
"""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio import libsndfile, pyav, wave
from mmssl.data.audio.header import VIDEO, AudioLimits, Header, check_header
from mmssl.data.limits import MediaError, guarded
from mmssl.data.stores import Extent
from mmssl.errors import UserError

PEAK_LIMIT = 8.0
"""Floats may pass full scale (1) a little; beyond this a file was written in another unit, such as 16-bit counts."""
_FORGIVEN = 0.1
"""Seconds by which a header of PyAV's may promise too much: containers round, and codecs pad."""
# PyAV first: libsndfile knows none of these, or cannot seek in them
_PYAV_FIRST = VIDEO | {".mp3", ".m4a", ".aac", ".wma", ".ac3", ".amr", ".mka"}


def read_header(extent: Extent, name: str, limits: AudioLimits | None = None) -> Header:
    """What a recording's header says. Raises MediaError.

    Args:
        extent: the file.
        name: its name; the extension says which library to ask first.
        limits: what it may cost.
    """
    limits = limits or AudioLimits()
    if extent.size == 0:
        raise MediaError("broken", "the file is empty")
    with guarded(limits.seconds):
        return check_header(_read_header(extent, name, limits), limits)


def _read_header(extent: Extent, name: str, limits: AudioLimits) -> Header:
    header = wave.read_header(extent)
    if header is not None:
        return header
    reasons = []
    first = PurePosixPath(name).suffix.lower() in _PYAV_FIRST
    for library in ("PyAV", "soundfile") if first else ("soundfile", "PyAV"):
        try:
            if library == "soundfile":
                return libsndfile.read_header(extent)
            return pyav.read_header(extent, limits.seconds)
        except UserError:  # a MediaError says what is wrong with the file, others what is not installed
            raise
        except libsndfile.NotKnownError as error:
            reasons.append(f"soundfile: {error}")
        except Exception as error:  # PyAV raises nearly anything on damaged input
            reasons.append(f"PyAV: {getattr(error, 'strerror', None) or error}")
    raise MediaError("broken", f"it is no recording that can be read ({'; '.join(reasons)})")


def read_frames(
    extent: Extent, header: Header, start: int, stop: int, limits: AudioLimits | None = None
) -> Float32[np.ndarray, " frame"]:
    """Frames ``start`` to ``stop`` at the recording's own rate, mixed to one channel.

    Raises:
        MediaError: when they cannot be decoded, are not there, or are no numbers.
    """
    limits = limits or AudioLimits()
    # a plain read of a regular file does not hang, and an alarm would cost as much as it
    with guarded(None if header.decoder == "pcm" else limits.seconds, warns=header.decoder == "pyav"):
        if header.decoder == "pcm":
            found = wave.read_frames(extent, header, start, stop)
        elif header.decoder == "soundfile":
            found = libsndfile.read_frames(extent, header, start, stop)
        else:
            found = pyav.read_frames(extent, header, start, stop, limits.seconds)
    missing = stop - start - len(found)
    if missing:
        forgiven = header.decoder == "pyav" and stop >= header.frames and missing <= _FORGIVEN * header.rate
        if not forgiven:
            seconds = (start + len(found)) / header.rate
            raise MediaError("broken", f"it ends after {seconds:.2f} s, before the {header.seconds:.2f} s expected")
        found = np.concatenate([found, np.zeros((missing, header.channels), np.float32)])
    _check_numbers(found, header)
    return mix(found)


def blocks(
    extent: Extent, header: Header, limits: AudioLimits | None = None
) -> Iterator[Float32[np.ndarray, "frame channel"]]:
    """All frames with all channels, some at a time, to the real end. Raises MediaError as :func:`read_frames` does.

    What is beyond the limit of hours, or takes too long, is an error too: a header may promise less than comes.
    """
    limits = limits or AudioLimits()
    total = 0
    with guarded(limits.patience(header.seconds)), contextlib.closing(_blocks(extent, header, limits)) as found:
        for block in found:
            total += len(block)
            if total > 3600 * limits.hours * header.rate:
                raise MediaError("limit", f"it goes on beyond the limit of {limits.hours:g} h")
            _check_numbers(block, header)
            yield block


def _blocks(
    extent: Extent, header: Header, limits: AudioLimits
) -> Generator[Float32[np.ndarray, "frame channel"], None, None]:
    if header.decoder == "pcm":
        yield from wave.blocks(extent, header)
    elif header.decoder == "soundfile":
        yield from libsndfile.blocks(extent, header)
    else:
        yield from pyav.blocks(extent, header, limits.patience(header.seconds))


def mix(frames: Float32[np.ndarray, "frame channel"]) -> Float32[np.ndarray, " frame"]:
    """The mean of the channels."""
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(1, dtype=np.float32)


def _check_numbers(frames: Float32[np.ndarray, "frame channel"], header: Header) -> None:
    if header.format.partition("/")[2].startswith("PCM_") or not len(frames):  # whole numbers cannot be wrong
        return
    # NaN if there is one; not by min() and max(), whose way to these takes as long as they
    low, high = float(np.minimum.reduce(frames, axis=None)), float(np.maximum.reduce(frames, axis=None))
    if not np.isfinite(low + high):
        count = int((~np.isfinite(frames)).sum())
        raise MediaError("broken", f"{count:,} samples are no numbers (NaN or infinite)")
    if max(-low, high) > PEAK_LIMIT:
        raise MediaError(
            "broken", f"samples reach {max(-low, high):.4g}, far beyond full scale: write them between -1 and 1"
        )
