"""Pretrain a speech encoder on a folder of recordings, the robust way: predict random codes of what is hidden.

Chiu et al. 2022, "Self-Supervised Learning with Random-Projection Quantizer for Speech Recognition".

    python recipes/audio_best_rq.py --data recordings/ --out runs/speech
    mmssl reveal runs/speech
    mmssl probe runs/speech --data labelled/

Two minutes on two CPU cores, to see that it works:

    python recipes/audio_best_rq.py --data recordings/ --out runs/try --steps 200
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from audio_pretraining import (
    AudioConfig,
    given,
    open_recordings,
    start,
    starting_model,
    train,
    with_rate,
)

from mmssl.errors import UserError, one_sentence_errors
from mmssl.predictors.best_rq import PRESETS, BestRQ, BestRQConfig
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LEARNING_RATE = {192: 2e-3, 256: 1e-3, 512: 3e-4, 768: 1.5e-4}
"""Peak rate at 24 seconds of sound a step by width. Our choice: the paper's 4e-3 belongs to batches of hours."""


@dataclass(frozen=True, kw_only=True)
class Config(AudioConfig):
    """Pretrain an encoder of recordings with BEST-RQ."""

    codebooks: int | None = None
    """Independent codebooks. Default: by preset."""
    codebook_size: int | None = None
    """Codes in each. Default: by preset."""


def describe_model(config: Config) -> BestRQConfig:
    """The model that the flags ask for."""
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    asked = given(
        codebooks=config.codebooks, codebook_size=config.codebook_size, cepstra=config.cepstra,
        keep_fraction=config.keep_fraction, span=config.span, variation=config.variation,
    )  # fmt: skip
    return replace(PRESETS[config.preset](), mask_fraction=config.mask_fraction, **asked)


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # predictor
    model = starting_model(config, run, describe_model(config))
    torch.manual_seed(config.seed)
    predictor = BestRQ(model).to(device)

    # data
    recordings = open_recordings(config, predictor)
    config = with_rate(config, LEARNING_RATE, model.encoder)
    checkpoint = start(config, run, predictor, recordings)

    # pretrain and report
    return train(config, run, predictor, recordings, checkpoint)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
