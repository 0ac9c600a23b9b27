"""Pretrain a wav2vec 2.0 on a folder of recordings, or go on with a published one on your own.

Baevski et al. 2020, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations".

    python recipes/audio_wav2vec2.py --data recordings/ --out runs/speech --preset small
    mmssl reveal runs/speech
    mmssl probe runs/speech --data labelled/
    mmssl export runs/speech --to transformers --out my-wav2vec2

Two minutes on two CPU cores, to see that it works:

    python recipes/audio_wav2vec2.py --data recordings/ --out runs/try --steps 200

Going on with a published model:

    python recipes/audio_wav2vec2.py --data recordings/ --out runs/mine --init wav2vec2-base/ --learning-rate 5e-5
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from audio_pretraining import AudioConfig, given, open_recordings, start, starting_model, train, with_rate

from mmssl.errors import UserError, one_sentence_errors
from mmssl.predictors.wav2vec2 import PRESETS, Wav2Vec2, Wav2Vec2Config
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LEARNING_RATE = {192: 1e-3, 256: 4e-4, 512: 2e-4, 768: 1e-4}
"""Peak rate at 24 seconds of sound a step by width. Our choice: the paper's 5e-4 for base belongs to 1.6 hours a step
(section 4.2), and a smaller batch wants a lower one."""

PUBLISHED = ("base", "large")
"""Presets whose temperature falls as published, for hundreds of thousands of steps."""

COOLED = 0.69
"""Share of the steps after which the temperature of our presets is at its lowest: that of base, where 0.999995 a step
needs 277,000 of 400,000 from 2 to 0.5."""


@dataclass(frozen=True, kw_only=True)
class Config(AudioConfig):
    """Pretrain an encoder of recordings with wav2vec 2.0."""

    negatives: int | None = None
    """Other hidden steps of a recording that the true one is told from. Default: by preset."""
    diversity_weight: float = 0.1
    """Weight of the loss that keeps all codes in use."""
    gumbel_decay: float | None = None
    """What each micro-batch multiplies the quantizer's temperature by. Default: as published for base and large; for
    other presets what reaches the lowest after 69 % of the steps."""
    warmup_steps: int | None = None
    """Steps of linear warm-up; default 10 % of the steps."""
    steps: int = 3000
    """Optimizer steps."""


def describe_model(config: Config) -> Wav2Vec2Config:
    """The model that the flags ask for."""
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    model = PRESETS[config.preset]()
    decay = config.gumbel_decay
    if decay is None and config.preset in PUBLISHED:
        decay = model.gumbel_decay
    elif decay is None:
        cooling = max(1.0, COOLED * config.steps * config.accumulation)
        decay = (model.gumbel_end / model.gumbel_start) ** (1 / cooling)
    return replace(
        model,
        mask_fraction=config.mask_fraction,
        negatives=model.negatives if config.negatives is None else config.negatives,
        diversity_weight=config.diversity_weight,
        gumbel_decay=decay,
        **given(
            span=config.span, cepstra=config.cepstra, keep_fraction=config.keep_fraction, variation=config.variation
        ),
    )


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)
    if config.warmup_steps is None:
        config = replace(config, warmup_steps=max(1, round(0.1 * config.steps)))

    # predictor
    model = starting_model(config, run, describe_model(config))
    torch.manual_seed(config.seed)
    predictor = Wav2Vec2(model).to(device)

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
