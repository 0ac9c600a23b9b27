"""Videos with exact truth: a square as bright as the sound is loud, and a hand-made network that compares the two."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import torch
from torch import nn

from mmssl.nn.clip_clock import ClipConfig
from mmssl.predictors.base import Predictor

FPS, RATE, SIDE = 25, 16_000, 64
PER_FRAME = RATE // FPS
SQUARE = slice(40, 56), slice(8, 24)
"""Where the square is: low and left."""


def envelope(seconds: float, seed: int) -> np.ndarray:
    """Loudness and brightness of every frame, from 0.05 to 1; as restless as speech."""
    drawn = np.random.default_rng(seed).uniform(0.05, 1, int(seconds * FPS))
    return np.convolve(np.pad(drawn, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")


def pictures(loudness: np.ndarray, seed: int = 0) -> np.ndarray:
    """Luma frames [frame, height, width]: the square, and beside it another that flickers by itself."""
    other = np.random.default_rng(seed + 1000).uniform(0.05, 1, len(loudness))
    frames = np.full((len(loudness), SIDE, SIDE), 40, np.uint8)
    frames[:, *SQUARE] = (40 + 200 * loudness).astype(np.uint8)[:, None, None]
    frames[:, 8:20, 44:56] = (40 + 100 * other).astype(np.uint8)[:, None, None]
    return frames


def sound(loudness: np.ndarray, lead_ms: float = 0.0, seed: int = 0) -> np.ndarray:
    """Noise as loud as the square is bright, int16, ``lead_ms`` early; silence where nothing is known."""
    noise = np.random.default_rng(seed + 2000).standard_normal(len(loudness) * PER_FRAME)
    samples = (noise * np.repeat(loudness, PER_FRAME) * 6000).clip(-32000, 32000).astype(np.int16)
    move = round(lead_ms * RATE / 1000)
    return np.concatenate([samples[move:], np.zeros(move, np.int16)]) if move >= 0 else np.concatenate(
        [np.zeros(-move, np.int16), samples[:move]])  # fmt: skip


def write_video(
    file: Path, frames: np.ndarray | None, samples: np.ndarray | None, *, late: tuple[float, float] = (0.0, 0.0),
    codec: str = "aac",
) -> Path:  # fmt: skip
    """An MP4 (or what the ending says); ``late``: seconds at which picture and sound begin on the container's clock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as output:
        if frames is not None:
            video = output.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "ultrafast"})
            video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        if samples is not None:
            audio = output.add_stream(codec, rate=RATE, layout="mono")
        if frames is not None:
            for number, luma in enumerate(frames):
                grey = np.concatenate([luma, np.full((luma.shape[0] // 2, luma.shape[1]), 128, np.uint8)])
                frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
                frame.pts, frame.time_base = round(1000 * (late[0] + number / FPS)), Fraction(1, 1000)
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(late[1] * RATE), Fraction(1, RATE)
            output.mux(audio.encode(frame))
            output.mux(audio.encode(None))
    return file


def square_video(file: Path, seconds: float = 5.0, lead_ms: float = 0.0, seed: int = 0) -> Path:
    """A video whose sound leads its picture by ``lead_ms``."""
    loudness = envelope(seconds, seed)
    return write_video(file, pictures(loudness, seed), sound(loudness, lead_ms, seed))


def square_clip(seconds: float, seed: int) -> SimpleNamespace:
    """A clip in memory, in sync."""
    loudness = envelope(seconds, seed)
    return SimpleNamespace(video=pictures(loudness, seed)[:, None], audio=sound(loudness, seed=seed))


class BrightnessMeter(Predictor):
    """Embeds five frames as their brightness and as their loudness: right wherever the square is the only light."""

    name = "brightness_meter"

    def __init__(self, scale: float = 10.0):
        super().__init__()
        self.config, self.clip = SimpleNamespace(window=5), ClipConfig((SIDE, SIDE))
        self.scale = nn.Parameter(torch.tensor(scale))

    def brightness(self, batch):
        return batch["video"].float()[:, :, 0, *SQUARE].mean((2, 3))

    def loudness(self, batch):
        return batch["audio"].float().unflatten(1, (batch["video"].shape[1], -1)).square().mean(2).sqrt()

    def embed(self, batch):
        (visual, sees), (audio, hears) = (self.windows(x) for x in (self.brightness(batch), self.loudness(batch)))
        return SimpleNamespace(visual=visual, audio=audio, visual_weight=sees, audio_weight=hears)

    def windows(self, x):
        x = x.unfold(1, 5, 1)
        x = x - x.mean(-1, keepdim=True)
        size = x.norm(dim=-1, keepdim=True)
        return x / size.clamp_min(1e-6), (size[..., 0] > 2.0).float()

    def similarity(self, visual, audio):
        return self.scale * visual @ audio.transpose(-1, -2)

    def locate(self, batch):
        cells = batch["video"].float()[:, :, 0].unflatten(2, (8, 8)).unflatten(4, (8, 8)).mean((3, 5))  # [b, t, 8, 8]
        here, _ = self.windows(cells.flatten(2).transpose(1, 2).flatten(0, 1))
        here = here.unflatten(0, (len(cells), 64))  # [batch, place, window, 5]
        audio, _ = self.windows(self.loudness(batch))
        return (here * audio[:, None]).sum(-1).transpose(1, 2).unflatten(2, (8, 8))

    def clip_embedding(self, batch):
        x, y = self.brightness(batch), self.loudness(batch)
        unit = torch.nn.functional.normalize
        return unit(x - x.mean(1, keepdim=True), dim=1), unit(y - y.mean(1, keepdim=True), dim=1)

    def nothing(self, *_):
        raise NotImplementedError("it is not trained")

    perturb = encode = predict = target = score = encode_clean = reveal = nothing
