"""Small predictors of recordings, and recordings."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmssl.nn import AudioEncoderConfig, MelConfig, QuantizerConfig, TransformerConfig, WaveformConfig
from mmssl.predictors.best_rq import BestRQ, BestRQConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2, Wav2Vec2Config

LENGTHS = [12_000, 12_000, 9_100, 4_000, 1_700]
"""37 frames of the convolutions to 5; 73 frames of 10 ms to 9."""

FRONT_ENDS = {
    "group": WaveformConfig(dim=16),
    "layer": WaveformConfig(dim=16, norm="layer", bias=True),
    "mel": MelConfig(mels=20, stack=2),
}


def encoder_config(front_end: str) -> AudioEncoderConfig:
    trunk = TransformerConfig(
        dim=32, depth=2, heads=4, mlp_dim=48, norm="pre" if front_end == "layer" else "post", norm_epsilon=1e-5
    )
    return AudioEncoderConfig(trunk, FRONT_ENDS[front_end], position_kernel=16, position_groups=4)


def wav2vec2(front_end: str = "group", **changes: Any) -> Wav2Vec2:
    """With weights that no layer is dead with."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(encoder_config(front_end), QuantizerConfig(2, 16, 24), projection_dim=20, negatives=10)
    model = Wav2Vec2(replace(config, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def best_rq(**changes: Any) -> BestRQ:
    torch.manual_seed(0)
    config = BestRQConfig(encoder_config("mel"), codebooks=3, codebook_size=16, codebook_dim=4)
    return BestRQ(replace(config, **changes))


def recordings(lengths: list[int], seed: int = 0, epoch: int = 0) -> dict[str, Tensor]:
    """Drifting noise, so that neighbouring frames resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(lengths), max(lengths), generator=generator)
    audio = 0.05 * noise + 0.2 * (0.02 * noise.cumsum(1)).sin()
    length = torch.tensor(lengths)
    return {
        "id": torch.arange(len(lengths)) + 10,
        "epoch": torch.full((len(lengths),), epoch),
        "audio": torch.where(torch.arange(audio.shape[1]) < length[:, None], audio, 0),
        "length": length,
    }


def one_of(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One recording alone, without padding."""
    alone = {name: value[row : row + 1] for name, value in batch.items()}
    return alone | {"audio": alone["audio"][:, : int(alone["length"])]}
