"""Reading a segment of a recording by seeking, against soundfile and PyAV, in one process.

    python tests/benchmarks/audio_segments.py --threads 1 --device cpu --clock cpu

Each turn reads the same 4-second segments at the same places of 15-second files at 16 kHz; everybody opens the file for
each segment and gives float32. Every way is compared with slicing the whole file before it is timed.

soundfile's own seek is not exact in MP3 of low bit rates (libsndfile decodes 4 packets before the place, and bits may
lie further back), so that MP3 has a row in which soundfile starts 0.7 s before the segment and drops that. Its decoder
complains on standard error of nearly every seek; add 2>/dev/null.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from harness import Stopwatch, add_arguments, alternate, prepare, ratios

from mmssl.data.audio import decode
from mmssl.data.stores import Extent

RATE, LENGTH, SEGMENT, PLACES = 16_000, 15, 4, 16
# container, coding and what else soundfile takes to write it
FORMATS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "WAV": ("WAV", "PCM_16", {}),
    "FLAC": ("FLAC", "PCM_16", {}),
    "Ogg Vorbis": ("OGG", "VORBIS", {}),
    "MP3": ("MP3", "MPEG_LAYER_III", {}),
    "MP3, 8 kbit/s": ("MP3", "MPEG_LAYER_III", {"compression_level": 0.99, "bitrate_mode": "CONSTANT"}),
}
AHEAD = 7 * RATE // 10

Read = Callable[[int], np.ndarray]


def speech_like(seed: int) -> np.ndarray:
    """Tones that come and go in noise: lossless codecs have something to predict and something they cannot."""
    rng = np.random.default_rng(seed)
    time = np.arange(LENGTH * RATE) / RATE
    voiced = np.sin(2 * np.pi * 3 * time) > 0
    tones = sum(np.sin(2 * np.pi * pitch * time) / 4 for pitch in rng.uniform(100, 900, 4))
    return (0.3 * tones * voiced + rng.normal(0, 0.005, len(time))).astype(np.float32)


def ours(path: Path) -> Read:
    extent = Extent(str(path), 0, path.stat().st_size)
    header = decode.read_header(extent, path.name)
    return lambda start: decode.read_frames(extent, header, start, start + SEGMENT * RATE)


def with_soundfile(path: Path) -> Read:
    return lambda start: soundfile.read(path, start=start, frames=SEGMENT * RATE, dtype="float32")[0]


def with_soundfile_from_before(path: Path) -> Read:
    def read(start: int) -> np.ndarray:
        ahead = min(start, AHEAD)
        return soundfile.read(path, start=start - ahead, frames=ahead + SEGMENT * RATE, dtype="float32")[0][ahead:]

    return read


def with_pyav(path: Path) -> Read:
    def read(start: int) -> np.ndarray:
        found = np.zeros(SEGMENT * RATE, np.float32)
        with av.open(str(path)) as file:
            stream = file.streams.audio[0]
            stream.codec_context.thread_count = 1
            tick, origin = stream.time_base, stream.start_time or 0
            file.seek(origin + int(max(0, start / RATE - 0.3) / tick), stream=stream)
            for frame in file.decode(stream):
                samples = frame.to_ndarray()[0]
                if samples.dtype == np.int16:
                    samples = samples.astype(np.float32) / 32768
                place = round((frame.pts - origin) * tick * RATE)
                low, high = max(place, start), min(place + len(samples), start + len(found))
                if low < high:
                    found[low - start : high - start] = samples[low - place : high - place]
                if place + len(samples) >= start + len(found):
                    break
        return found

    return read


def largest_error(read: Read, whole: np.ndarray, places: list[int]) -> float:
    return max(float(np.abs(read(place) - whole[place : place + SEGMENT * RATE]).max()) for place in places)


def main() -> None:
    parser = argparse.ArgumentParser(description="4 s of a 15 s recording, segments a second")
    add_arguments(parser)
    parser.set_defaults(threads=1, device="cpu", rounds=9, seconds=0.5)
    options = parser.parse_args()
    stopwatch = Stopwatch(prepare(options), options.clock)
    library = soundfile.__libsndfile_version__
    print(f"           soundfile {soundfile.__version__} (libsndfile {library}), PyAV {av.__version__}")
    places = np.random.default_rng(0).integers(0, (LENGTH - SEGMENT) * RATE, PLACES).tolist()
    for title, (container, coding, more) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"speech.{container.lower()}"
            soundfile.write(path, speech_like(0), RATE, format=container, subtype=coding, **more)
            whole, _ = soundfile.read(path, dtype="float32")
            ways = {"soundfile": with_soundfile(path), "PyAV": with_pyav(path), "ours": ours(path)}
            if container == "MP3":
                ways["soundfile from before"] = with_soundfile_from_before(path)
            errors = {name: largest_error(read, whole, places) for name, read in ways.items()}
            cases = {name: (lambda read=read: [read(place) for place in places]) for name, read in ways.items()}
            rounds = list(alternate(cases, stopwatch, options.rounds, options.seconds))
        print(title)
        for name in ways:
            rate = PLACES / statistics.median(timings[name] for timings in rounds)
            against = ratios([timings["soundfile"] / timings[name] for timings in rounds])
            print(f"  {name:22}{rate:8.0f} segments/s  x soundfile {against}  off by {errors[name]:.1e}")


if __name__ == "__main__":
    main()
