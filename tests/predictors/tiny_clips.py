"""Small predictors of clips, and clips with known truth: a mouth as open as the sound is loud."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.nn import MelConfig, TransformerConfig
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.clip_windows import WindowsConfig
from mmssl.predictors.audio_visual_masked import AudioVisualMasked, AudioVisualMaskedConfig
from mmssl.predictors.audio_visual_sync import AudioVisualSync, AudioVisualSyncConfig

SAMPLES = 640
CLIP = ClipConfig((20, 20), mel=MelConfig(mels=16, stack=1))
ENCODER = WindowsConfig(dim=24, visual_widths=(8, 16), audio_widths=(8, 16))


def sync_model(**changes: Any) -> AudioVisualSync:
    torch.manual_seed(0)
    config = AudioVisualSyncConfig(CLIP, encoder=ENCODER, margin=2)
    return AudioVisualSync(replace(config, **changes))


def masked_model(**changes: Any) -> AudioVisualMasked:
    torch.manual_seed(0)
    config = AudioVisualMaskedConfig(
        replace(CLIP, picture_size=(16, 16)), TransformerConfig(dim=48, depth=2, heads=4, mlp_dim=96), frames=16,
        cube=(2, 8, 8), span=3,
    )  # fmt: skip
    return AudioVisualMasked(replace(config, **changes))


def talking(
    count: int, frames: int = 30, size: int = 20, seed: int = 0, corner: tuple[int, int] = (10, 5), plain: bool = False
) -> dict[str, Tensor]:
    """Clips in which a dark mouth, its top left at ``corner``, opens as loud as noise sounds; unless ``plain``, a light
    elsewhere flickers on its own, and the camera is noisy."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(count, 1, frames + 8, generator=generator)
    opening = F.avg_pool1d(steps, 3, 1)[:, 0, :frames]
    opening = ((opening + 0.6) / 1.2).clamp(0.05, 1)  # [count, frames]
    row = torch.arange(size)[:, None] - corner[0]
    column = torch.arange(size) - corner[1]
    mouth = (row >= 0) & (row < 8 * opening[:, :, None, None]) & (column >= 0) & (column < 8)
    light = torch.rand(count, frames, 1, 1, generator=generator) * ((row < -5) & (column > size - 10 - corner[1]))
    video = 150.0 - 100 * mouth
    if not plain:
        video = video + 60 * light + 4 * torch.randn(count, frames, size, size, generator=generator)
    # loudness follows the opening within frames too
    envelope = F.interpolate(opening[:, None], frames * SAMPLES, mode="linear")[:, 0] ** 2
    audio = 0.3 * envelope * torch.randn(count, frames * SAMPLES, generator=generator)
    return {
        "id": torch.arange(count) + 1000 * seed,
        "epoch": torch.zeros(count, dtype=torch.int64),
        "clip": torch.arange(count) + 1000 * seed,
        "video": video.clamp(0, 255).round().byte()[:, :, None],
        "audio": (audio.clamp(-1, 1) * 32767).round().short(),
    }


def train(model: torch.nn.Module, batches: list[dict[str, Tensor]], steps: int, rate: float = 5e-3) -> None:
    """Plain training, for what only a trained model shows."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for step in range(steps):
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        model({**batch, "epoch": batch["epoch"] + step})["loss"].backward()
        optimizer.step()
    model.eval()
