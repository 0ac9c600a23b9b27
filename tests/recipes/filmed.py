"""Videos that tests look at: a bright bar opens and closes as loudly as the sound."""

from pathlib import Path

import av
import numpy as np

RATE, FPS, SIDE = 16_000, 25, 48


def write_filmed(folder: Path, count: int = 3, seconds: float = 2.0, seed: int = 0) -> Path:
    """So many MP4 files of noise whose loudness is the height of a bar."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        frames = round(seconds * FPS)
        loudness = np.abs(np.convolve(random.standard_normal(frames + 4), np.ones(5) / 5, "valid")).clip(0, 1)
        sound = np.repeat(loudness, RATE // FPS) * random.uniform(-0.5, 0.5, frames * RATE // FPS)
        with av.open(str(folder / f"{number}.mp4"), "w") as file:
            track = file.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
            track.width = track.height = SIDE
            track.pix_fmt = "yuv420p"
            voice = file.add_stream("aac", rate=RATE, layout="mono")
            for opening in loudness:
                picture = np.full((SIDE, SIDE), 60, np.uint8)
                half = 1 + round(10 * float(opening))
                picture[SIDE // 2 - half : SIDE // 2 + half, 12:36] = 220
                file.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")))
            file.mux(track.encode(None))
            for begin in range(0, len(sound), 1024):
                part = sound[None, begin : begin + 1024].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE, begin
                file.mux(voice.encode(frame))
            file.mux(voice.encode(None))
    return folder
