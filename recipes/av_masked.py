"""Pretrain on a folder of videos by hiding parts of pictures and of sound, and predicting each from both.

After Tong et al. 2022, "VideoMAE" (tubes of pictures are hidden), and Shi et al. 2022, "AV-HuBERT" (some clips lose a
sense as a whole), with one trunk for both senses.

    python recipes/av_masked.py --data videos/ --out runs/senses --crop mouth --size 64 64
    mmssl reveal runs/senses

Look at val_skill_sound_from_sight beside val_skill_sound_from_sound: what pictures say about sound, and what the sound
around it says; and the other way round.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from av_pretraining import ClipRunConfig, open_windows, start, train

from mmssl.errors import UserError, one_sentence_errors
from mmssl.predictors.audio_visual_masked import PRESETS, AudioVisualMasked, AudioVisualMaskedConfig
from mmssl.terminal import tell
from mmssl.training.config import MaskedRunConfig
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LEARNING_RATE = {96: 2e-3, 192: 1e-3, 384: 6e-4}
"""Peak rate at 32 clips a step by width; our choice. It grows with the square root of the batch."""


@dataclass(frozen=True, kw_only=True)
class Config(ClipRunConfig, MaskedRunConfig):
    """Pretrain a masked audio-visual predictor."""

    size: tuple[int, int] = (64, 64)
    """Height and width of the frames; multiples of the cube's."""
    frames: int = 24
    """Frames of a clip: about a second."""
    cube: tuple[int, int, int] = (2, 16, 16)
    """Frames, height and width of a visual token."""
    mask_fraction: float = 0.75
    """Share of visual tokens hidden in training; validation hides 75 % in all runs."""
    audio_fraction: float = 0.5
    """Share of audio tokens hidden in training; validation hides 50 % in all runs."""
    sampler: Literal["tube", "random"] = "tube"
    """Hide the same places in all frames, or any."""
    span: int = 5
    """Frames of sound that are hidden together."""
    whole: float = 0.5
    """Share of clips of which a sense is hidden as a whole, or not at all."""
    target: Literal["motion", "pixels"] = "motion"
    """Predict how pixels differ from the clip's mean picture, or the pixels themselves."""
    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 32
    """Clips an optimizer step, over all micro-batches."""


def describe_model(config: Config) -> AudioVisualMaskedConfig:
    """The model that the flags ask for."""
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    return AudioVisualMaskedConfig(
        config.clip_config, PRESETS[config.preset](), config.frames, config.cube, config.mask_fraction,
        config.audio_fraction, config.sampler, config.span, config.whole, config.target,
    )  # fmt: skip


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # predictor
    torch.manual_seed(config.seed)
    model = describe_model(config)
    predictor = AudioVisualMasked(model).to(device)

    # data
    clips = open_windows(config, config.frames, str(device))
    width = max((dim for dim in LEARNING_RATE if dim <= model.trunk.dim), default=min(LEARNING_RATE))
    rate = LEARNING_RATE[width] * math.sqrt(config.batch_size / 32)
    config = replace(config, learning_rate=config.learning_rate or rate)
    checkpoint = start(config, run, predictor, clips)

    # pretrain and report
    train(config, run, predictor, clips, checkpoint)
    tell(f"next: mmssl reveal {run.path}")
    tell(run.path)
    return run.path


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
