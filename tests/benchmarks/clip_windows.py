"""Random windows of videos from the cache, against decoding them from MP4 with the file opened each time.

    python tests/benchmarks/clip_windows.py --threads 1 --device cpu --clock cpu --data av_grid

Each turn reads the same windows of 25 frames and their sound, as 64 x 64 luma and 16-bit samples. The rival is plain
PyAV: open, seek both streams to the window, decode up to its end, grey, scale. It finds no faces and resamples no time
line, which real pipelines have to do as well. Both are compared with each other before they are timed: pictures
exactly, sound (seeking in AAC begins without the past of its decoder) by correlation. Without --data clips are
generated.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from harness import Stopwatch, add_arguments, alternate, prepare, ratios
from PIL import Image

from mmssl.data.video import ClipLoader, ClipSettings, ClipSource, VideoSource, open_clips, open_videos
from mmssl.data.window import Window

FRAMES, SIZE, PLACES, MOST = 25, 64, 32, 64

Read = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def generate(folder: Path, count: int = 8) -> Path:
    """Clips of 3 s, 256 x 256, H.264 and AAC: a moving grating with a little noise, and tones."""
    rows, columns = np.mgrid[:256, :256]
    for number in range(count):
        rng = np.random.default_rng(number)
        with av.open(str(folder / f"{number}.mp4"), "w") as file:
            track = file.add_stream("libx264", rate=25)
            track.width = track.height = 256
            track.pix_fmt = "yuv420p"
            voice = file.add_stream("aac", rate=16_000, layout="mono")
            for frame in range(75):
                wave = 128 + 60 * np.sin(rows / 9 + frame / 3) * np.cos(columns / 13 - frame / 5)
                grey = np.clip(wave + rng.normal(0, 3, wave.shape), 0, 255).astype(np.uint8)
                file.mux(track.encode(av.VideoFrame.from_ndarray(grey, format="gray").reformat(format="yuv420p")))
            file.mux(track.encode(None))
            time = np.arange(3 * 16_000) / 16_000
            tone = (0.3 * np.sin(2 * np.pi * (200 + 100 * number + 80 * time) * time)).astype(np.float32)
            for begin in range(0, len(tone), 1024):
                sound = av.AudioFrame.from_ndarray(tone[None, begin : begin + 1024], format="fltp", layout="mono")
                sound.sample_rate, sound.pts = 16_000, begin
                file.mux(voice.encode(sound))
            file.mux(voice.encode(None))
    return folder


def with_pyav(source: ClipSource, videos: VideoSource) -> Read:
    """Decode a window from its file, or from the member of a tar at its offset."""

    def read(index: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        start = source.clip(index).start + first / 25
        pictures, sound = [], np.zeros(FRAMES * 640, np.float32)
        extent = videos.extent(index)
        with av.open(extent.path if extent.alone else Window(extent)) as file:
            track, voice = file.streams.video[0], file.streams.audio[0]
            track.codec_context.thread_count = voice.codec_context.thread_count = 1
            file.seek(int(start / track.time_base), stream=track)
            for frame in file.decode(track):
                if float(frame.pts * track.time_base) > start - 1e-3:
                    grey = Image.fromarray(frame.to_ndarray(format="gray"))
                    pictures.append(np.asarray(grey.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
                    if len(pictures) == FRAMES:
                        break
            file.seek(int(max(0.0, start - 0.2) / voice.time_base), stream=voice)
            for frame in file.decode(voice):
                place = round((float(frame.pts * voice.time_base) - start) * 16_000)
                low, high = max(place, 0), min(place + frame.samples, len(sound))
                if low < high:
                    sound[low:high] = frame.to_ndarray()[0, low - place : high - place]
                if place + frame.samples >= len(sound):
                    break
        return np.stack(pictures)[:, None], np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16)

    return read


def compare(name: str, ours: Read, theirs: Read, windows: list[tuple[int, int]]) -> None:
    """Stop unless both read the same."""
    for index, first in windows[:6]:
        (video, audio), (other, sound) = ours(index, first), theirs(index, first)
        assert (video == other).all(), f"{name}: other pictures at {index}, {first}"
        both = np.corrcoef(audio.astype(float), sound.astype(float))[0, 1]
        assert both > 0.99, f"{name}: other sound at {index}, {first}: correlation {both:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add_arguments(parser)
    parser.add_argument("--data", type=Path, help="folder or tar with videos at 25 frames a second, 16 kHz")
    arguments = parser.parse_args()
    device = prepare(arguments)
    stopwatch = Stopwatch(device, arguments.clock)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "videos").mkdir()
        data = arguments.data or generate(folder / "videos")
        source = open_clips(data, settings=ClipSettings(size=(SIZE, SIZE)), cache=folder / "cache")
        loader = ClipLoader(source.spread(MOST), frames=FRAMES, batch_size=PLACES, seed=0)
        source, videos = loader.source, open_videos(data).spread(MOST)
        batch = next(loader.batches())
        windows = list(zip(batch["clip"].tolist(), batch["first"].tolist(), strict=True))
        ours: Read = lambda index, first: source.window(index, first, FRAMES)  # noqa: E731
        theirs = with_pyav(source, videos)
        compare("cache", ours, theirs, windows)
        batches = loader.batches()
        cases = {
            "PyAV, MP4 opened each time": lambda: [theirs(*window) for window in windows],
            "cache, a batch on the device": lambda: next(batches),
        }
        seen = list(alternate(cases, stopwatch, arguments.rounds, arguments.seconds))
        for name in cases:
            seconds = statistics.median(timings[name] for timings in seen) / PLACES
            ratio = ratios([timings["PyAV, MP4 opened each time"] / timings[name] for timings in seen])
            print(
                f"{name:<30}{1 / seconds:>12,.0f} windows/s {seconds * 1e6:>10,.0f} us each   {ratio} times", flush=True
            )


if __name__ == "__main__":
    main()
