"""Sound and talking faces into files: WAV of 16 bits, and MP4 (H.264 and AAC) whose two streams begin at 0."""

import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmssl.errors import UserError

VIDEO_OPTIONS = {"preset": "superfast", "crf": "18", "bf": "0"}
"""x264: fast, nearly without loss, and no frames out of order, so that the stream begins at 0 without an edit list."""
SOUND_OPTIONS = {"aac_coder": "fast"}
SOUND_BITS = 64_000
"""A second."""


def write_wav(file: Path, samples: np.ndarray, rate: int) -> None:
    """One channel of int16 samples."""
    with wave.open(str(file), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(samples.astype("<i2").tobytes())


def write_mp4(
    file: Path, pictures: Iterable[tuple[np.ndarray, np.ndarray]], samples: np.ndarray, *, fps: int, rate: int
) -> None:
    """A video with sound.

    The AAC encoder puts 1024 samples of its own before the first one; the file says so, and decoders drop them: sample
    0 is heard with frame 0.

    Args:
        file: ending in .mp4.
        pictures: luma uint8 ``[frame, size, size]`` and chroma ``[frame, 2, size / 2, size / 2]``, some at a time.
        samples: int16, one channel.
        fps: frames a second.
        rate: samples a second.

    Raises:
        UserError: when PyAV is missing.
    """
    try:
        import av
    except ImportError:
        raise UserError("talking faces need PyAV to be written: pip install 'mmssl[audio]'") from None
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=fps, options=VIDEO_OPTIONS)
        video.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=rate, layout="mono", options=SOUND_OPTIONS)
        sound.bit_rate = SOUND_BITS
        number = 0
        for luma, chroma in pictures:
            size = luma.shape[1]
            if not number:
                video.width, video.height, video.pix_fmt = size, size, "yuv420p"
            for frame in np.concatenate([luma.reshape(len(luma), -1), chroma.reshape(len(luma), -1)], 1):
                picture = av.VideoFrame.from_ndarray(frame.reshape(-1, size), format="yuv420p")
                picture.pts = number
                number += 1
                container.mux(video.encode(picture))
        container.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        heard.sample_rate, heard.pts = rate, 0
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
