"""Small recordings for the tests of mmssl.data.audio."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")

# what soundfile writes for each name's ending; lossy ones are compared with their own decoding
SOUNDFILE = {
    "wav16.wav": ("WAV", "PCM_16"),
    "wav24.wav": ("WAV", "PCM_24"),
    "wav32.wav": ("WAV", "PCM_32"),
    "wav8.wav": ("WAV", "PCM_U8"),
    "float.wav": ("WAV", "FLOAT"),
    "double.wav": ("WAV", "DOUBLE"),
    "extensible.wav": ("WAVEX", "PCM_16"),
    "rf64.wav": ("RF64", "PCM_16"),
    "ulaw.wav": ("WAV", "ULAW"),
    "flac16.flac": ("FLAC", "PCM_16"),
    "flac24.flac": ("FLAC", "PCM_24"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.opus": ("OGG", "OPUS"),
    "aiff.aiff": ("AIFF", "PCM_16"),
    "mp3.mp3": ("MP3", "MPEG_LAYER_III"),
}
PYAV = {
    "aac.m4a": ("mp4", "aac"),
    "opus.webm": ("webm", "libopus"),
    "aac.mka": ("matroska", "aac"),
    "aac.ts": ("mpegts", "aac"),
}


def tone(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Gliding tones and a little noise, float32 [frame, channel], different for each seed and channel."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    columns = []
    for _ in range(channels):
        low, glide, phase = rng.uniform(100, 400), rng.uniform(20, 200), rng.uniform(0, 6)
        columns.append(0.4 * np.sin(2 * np.pi * (low + glide * time) * time + phase))
    return (np.stack(columns, 1) + rng.normal(0, 0.02, (len(time), channels))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, kind: tuple[str, str] = ("WAV", "PCM_16")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, format=kind[0], subtype=kind[1])
    return path


def write_pyav(path: Path, samples: np.ndarray, rate: int, container: str, codec: str, bits: int | None = None) -> Path:
    """By FFmpeg, one or two channels, at so many bits a second."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    out_rate = 48_000 if codec == "libopus" else rate
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=out_rate, layout=layout)
        if bits:
            stream.bit_rate = bits
        counts = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(counts.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=out_rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


def write_any(folder: Path, name: str, seconds: float = 3.0, rate: int = 16_000, channels: int = 1) -> Path:
    """A file of the kind that its name says, see SOUNDFILE and PYAV."""
    samples = tone(seconds, rate, channels)
    if name in SOUNDFILE:
        return write(folder / name, samples, rate, SOUNDFILE[name])
    return write_pyav(folder / name, samples, rate, *PYAV[name])


def write_folder(root: Path, lengths: list[float], rate: int = 16_000, ending: str = "wav") -> Path:
    """Files 00.wav ... of these lengths in seconds."""
    kind = ("FLAC" if ending == "flac" else "WAV", "PCM_16")
    for number, seconds in enumerate(lengths):
        write(root / f"{number:02d}.{ending}", tone(seconds, rate, seed=number), rate, kind)
    return root


def pack(path: Path, files: list[Path], extra: dict[str, str] | None = None) -> Path:
    """A tar of these files, and of texts by name."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for file in files:
            archive.add(file, f"audio/{file.name}")
        for name, text in (extra or {}).items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def shared(name: str) -> Path:
    """A folder of the data that lie beside the repository; may be missing."""
    return Path(__file__).resolve().parents[3].parent / "shared/data" / name
