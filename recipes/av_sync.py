"""Learn from a folder of videos which sound belongs to which moment of the picture.

The N-way task of Chung, Chung & Kang 2019, "Perfect match: improved cross-modal embeddings for audio-visual
synchronisation", with small encoders in the manner of SyncNet (Chung & Zisserman 2016).

    python recipes/av_sync.py --data videos/ --out runs/sync --crop mouth
    mmssl reveal runs/sync
    mmssl sync runs/sync suspicious.mp4

Look at val_shift_top1 beside val_shift_chance: how often the right moment is found among 31, to within a frame, from
0.2 s of picture. It leaves chance within the first 100 steps where there is something to learn. On 18 minutes of one
speaker, 1250 steps on one CPU core with --precision bf16 take 18 minutes and end at 0.87,
pauses included.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from av_pretraining import ClipRunConfig, open_windows, start, train

from mmssl.errors import UserError, one_sentence_errors
from mmssl.evaluation.sync_runs import say_calibration
from mmssl.nn.clip_windows import WindowsConfig
from mmssl.predictors.audio_visual_sync import AudioVisualSync, AudioVisualSyncConfig
from mmssl.terminal import tell
from mmssl.training.distributed import is_main, torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

PRESETS = {
    "pico": WindowsConfig(dim=128, visual_widths=(16, 32, 64, 64), audio_widths=(16, 32, 64, 64)),
    "nano": WindowsConfig(),
    "small": WindowsConfig(dim=512, visual_widths=(64, 128, 256, 256), audio_widths=(64, 128, 256, 256)),
}
"""Encoders by name. Not published models; SyncNet's own has five times the parameters of nano."""

LEARNING_RATE = 2e-3
"""Peak rate at 12 windows of 2 s a step; our choice. It grows with the square root of the batch, as suits Adam (Malladi
et al. 2022)."""


@dataclass(frozen=True, kw_only=True)
class Config(ClipRunConfig):
    """Learn which sound belongs to which moment."""

    frames: int = 50
    """Frames of a training window, all shifts of which are told apart: 2 s."""
    objective: Literal["contrastive", "correspondence"] = "contrastive"
    """contrastive: which of many belongs here; correspondence: does this one, yes or no."""
    negatives: Literal["shifts", "clips", "both"] = "shifts"
    """Wrong answers: other moments of the same clip, the same moment of other clips, or both."""
    curriculum_steps: int = 0
    """Steps over which wrong answers become harder: other clips, far shifts, near shifts."""
    window: int = 5
    """Frames that are embedded together."""
    off_grid_negatives: bool = False
    """For teaching: cut the sound of wrong answers between frames, which gives them away. Needs correspondence."""
    steps: int = 1500
    """Optimizer steps."""
    batch_size: int = 12
    """Windows an optimizer step, over all micro-batches."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas."""


def describe_model(config: Config) -> AudioVisualSyncConfig:
    """The model that the flags ask for."""
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    if config.frames < config.window + 2:
        raise UserError(f"--frames {config.frames} must be at least --window {config.window} and 2")
    return AudioVisualSyncConfig(
        config.clip_config, config.window, PRESETS[config.preset], config.objective, config.negatives,
        config.curriculum_steps * config.accumulation, off_grid_negatives=config.off_grid_negatives,
    )  # fmt: skip


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # predictor
    torch.manual_seed(config.seed)
    predictor = AudioVisualSync(describe_model(config)).to(device)

    # data
    clips = open_windows(config, config.frames, str(device))
    rate = LEARNING_RATE * math.sqrt(config.batch_size * config.frames / 600)
    config = replace(config, learning_rate=config.learning_rate or rate)
    checkpoint = start(config, run, predictor, clips)

    # pretrain and report
    train(config, run, predictor, clips, checkpoint)
    if is_main():
        say_calibration(run.path, predictor, clips.val.source)
    tell(f"next: mmssl sync {run.path} VIDEO")
    tell(run.path)
    return run.path


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
