"""Recordings that libsndfile reads, through soundfile: FLAC, Ogg Vorbis and Opus, AIFF, AU, CAF, odd WAV files.

MP3 is left to PyAV: libsndfile decodes 4 packets before the one it seeks. At low bit rates (32 kbit/s at 44.1 kHz)
these are too few, and samples are not those of decoding the whole, by up to 0.3; and it complains on standard error.

libsndfile 1.2.2 opens an Ogg Vorbis file whose comment or codebook header is damaged under a valid page sum, without a
decoder: reading gives nothing, and a seek passes a null pointer to vorbis_synthesis_trackonly and kills the process. So
a frame of Vorbis is read before any seek, and nothing here lets soundfile seek by itself.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio.header import Header
from mmssl.data.limits import MediaError
from mmssl.data.stores import Extent
from mmssl.data.window import Window
from mmssl.errors import UserError

_BLOCK = 2**20
"""Frames read at a time where all are."""
_WHOLE = 2**23
"""A file inside another one is read into memory whole when it is not larger: a call back for each read costs more."""


class NotKnownError(Exception):
    """The file is in no format that libsndfile knows."""


def read_header(extent: Extent) -> Header:
    """The header. Raises NotKnownError when another library should try."""
    import soundfile

    try:
        with _open(extent) as file:
            if file.format == "MP3":
                raise NotKnownError("MP3")
            form = f"{file.format}/{file.subtype}"
            return Header("soundfile", form, file.samplerate, file.channels, file.frames)
    except soundfile.LibsndfileError as error:
        raise NotKnownError(error.error_string.strip(".")) from None


def read_frames(extent: Extent, header: Header, start: int, stop: int) -> Float32[np.ndarray, "frame channel"]:
    """Frames ``start`` to ``stop``; fewer when the recording ends before. MediaError where none is decoded."""
    with _open(extent) as file:
        _never_seek(file)
        if start:
            if file.subtype == "VORBIS":
                if not len(file.read(1, "float32")):
                    raise MediaError("broken", "nothing in it can be decoded")
                # after a read, a seek of up to two seconds ahead is off by a window (libsndfile issue 885)
                file.seek(0)
            file.seek(start)
        return _read(file, stop - start, header)


def blocks(extent: Extent, header: Header) -> Iterator[Float32[np.ndarray, "frame channel"]]:
    """All frames, some at a time."""
    with _open(extent) as file:
        _never_seek(file)
        left = file.frames
        while left > 0 and len(found := _read(file, min(_BLOCK, left), header)):
            left -= len(found)
            yield found


def _never_seek(file: Any) -> None:
    """After each read of a seekable file soundfile seeks to where it is: in FLAC, a tenth of the time for nothing."""
    file.seekable = lambda: False


def _read(file: Any, count: int, header: Header) -> Float32[np.ndarray, "frame channel"]:
    # numpy's conversion takes a fifth of the time of libsndfile's, but a FLAC decoder's samples are converted anyway
    if header.format.endswith("/PCM_16") and header.format != "FLAC/PCM_16":
        return np.multiply(file.read(count, "int16", always_2d=True), np.float32(2.0**-15), dtype=np.float32)
    return file.read(count, "float32", always_2d=True)


def _open(extent: Extent) -> Any:
    """A soundfile.SoundFile; used in a with statement it closes what it reads from."""
    try:
        import soundfile
    except ImportError:
        raise UserError(f"{extent.path} needs soundfile to be read: pip install 'mmssl[audio]'") from None
    if extent.alone:
        # by descriptor: a path may hold bytes that are no text
        return soundfile.SoundFile(os.open(extent.path, os.O_RDONLY), closefd=True)
    if extent.size <= _WHOLE:
        return soundfile.SoundFile(io.BytesIO(extent.read(0, extent.size)))
    return _windowed(extent)


@contextmanager
def _windowed(extent: Extent) -> Iterator[Any]:
    import soundfile

    with Window(extent) as window, soundfile.SoundFile(cast(Any, window)) as file:
        yield file
