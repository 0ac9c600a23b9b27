"""Small videos with known truth: the grey level of a picture says which one it is, a sample says when it is."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

RATE = 16_000
LEVELS = 40
"""Pictures have levels 20, 25, 30 ... and begin again after so many."""
TICK = Fraction(1, 1000)


def level(number: int) -> int:
    return 20 + 5 * (number % LEVELS)


def number_of(picture: np.ndarray) -> int:
    """Which picture this is, up to multiples of LEVELS."""
    return round((float(picture.mean()) - 20) / 5) % LEVELS


def ramp(count: int) -> np.ndarray:
    """Samples that tell their own number, up to multiples of 20,000."""
    return (np.arange(count) % 20_000).astype(np.int16)


def write_video(
    path: Path,
    times: Sequence[float] | np.ndarray,
    samples: np.ndarray | None,
    *,
    sound_start: float = 0.0,
    sound_gap: tuple[int, float] | None = None,
    size: tuple[int, int] = (48, 64),
    rate: int = RATE,
    channels: int = 1,
    codec: str = "libx264",
    sound: str = "pcm_s16le",
    pictures: np.ndarray | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Picture i at ``times[i]`` seconds, a ramp or other samples from ``sound_start`` on.

    Args:
        path: the ending says which container.
        times: rising.
        samples: int16, one channel, repeated for all; None writes no sound track.
        sound_start: seconds.
        sound_gap: from this sample on everything is so many seconds later.
        size: height and width.
        rate, channels: of the sound.
        codec, sound: encoders.
        pictures: uint8 [number, height, width, 3] instead of grey levels.
        options: of the video encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        track = file.add_stream(codec, rate=25, options=options or {"crf": "1", "preset": "ultrafast"})
        track.height, track.width, track.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        track.codec_context.time_base = track.time_base = TICK
        voice = None
        if samples is not None:
            voice = file.add_stream(sound, rate=rate, layout="mono" if channels == 1 else "stereo")
        for number, time in enumerate(times):
            pixels = pictures[number] if pictures is not None else np.full((*size, 3), level(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=track.pix_fmt)
            frame.pts, frame.time_base = round(time / TICK), TICK
            file.mux(track.encode(frame))
        file.mux(track.encode(None))
        if voice is not None and samples is not None:
            for begin in range(0, len(samples), 1024):
                part = np.repeat(samples[None, begin : begin + 1024], channels, 0)
                kind = "s16p" if channels > 1 else "s16"
                frame = av.AudioFrame.from_ndarray(part, format=kind, layout=voice.layout.name)
                late = sound_gap[1] if sound_gap and begin >= sound_gap[0] else 0.0
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = begin + round((sound_start + late) * rate)
                for ready in av.AudioResampler(
                    format=voice.codec_context.format, layout=voice.layout, rate=rate
                ).resample(frame):
                    ready.pts = frame.pts
                    file.mux(voice.encode(ready))
            file.mux(voice.encode(None))
    return path


def plain(path: Path, seconds: float = 2.0, fps: float = 25.0, **more: object) -> Path:
    """Both streams from 0 for so many seconds."""
    count = round(seconds * fps)
    return write_video(path, np.arange(count) / fps, ramp(round(seconds * RATE)), **more)  # type: ignore[arg-type]


def shared(name: str) -> Path:
    """A folder of the data that lie beside the repository; may be missing."""
    return Path(__file__).resolve().parents[3].parent / "shared/data" / name
