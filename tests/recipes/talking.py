"""Videos that tests are talked to with: a mouth as open as the sound is loud."""

import json
from pathlib import Path

import numpy as np

FPS, RATE, SIZE = 25, 16_000, 32


def talking_head(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``[frame, height, width]`` uint8, and samples int16."""
    random = np.random.default_rng(seed)
    opening = np.convolve(random.standard_normal(frames + 2), np.ones(3) / 3, "valid")
    opening = np.clip((opening + 0.6) / 1.2, 0.05, 1)
    row, column = np.mgrid[:SIZE, :SIZE]
    mouth = (row >= 14) & (row < 14 + 12 * opening[:, None, None]) & (abs(column - 16) < 7)
    video = 150 - 100 * mouth + 3 * random.standard_normal((frames, SIZE, SIZE))
    time = np.arange(frames * RATE // FPS) / RATE * FPS
    envelope = np.interp(time, np.arange(frames) + 0.5, opening) ** 2
    audio = 0.3 * envelope * random.standard_normal(len(time))
    return np.clip(video, 0, 255).astype(np.uint8), (np.clip(audio, -1, 1) * 32767).astype(np.int16)


def write_video(file: Path, video: np.ndarray, audio: np.ndarray) -> None:
    """MPEG-4 and AAC in an MP4."""
    import av

    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        pictures = container.add_stream("mpeg4", rate=FPS)
        pictures.width, pictures.height, pictures.pix_fmt = SIZE, SIZE, "yuv420p"
        pictures.bit_rate = 400_000
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        for number, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, "gray").reformat(format="yuv420p")
            frame.pts = number
            container.mux(pictures.encode(frame))
        for start in range(0, len(audio), 1024):
            frame = av.AudioFrame.from_ndarray(audio[None, start : start + 1024], "s16", "mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(sound.encode(frame))
        container.mux(pictures.encode())
        container.mux(sound.encode())


def write_talking(folder: Path, count: int = 20, frames: int = 45, seed: int = 0) -> Path:
    """``count`` videos with a manifest of splits; the last fifth is held out."""
    rows = []
    for number in range(count):
        name = f"head-{number:02d}.mp4"
        write_video(folder / name, *talking_head(frames, seed + number))
        rows.append({"file": name, "split": "val" if number >= 0.8 * count else "train"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
