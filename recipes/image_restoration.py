"""Learn to undo any composition of perturbations: blur, noise, coarseness, zoom, masks, grey.

The generalised denoising autoencoder (Vincent et al. 2010); as pretext tasks beside masking: Tian et al. 2022, "Beyond
Masking: Demystifying Token-Based Pre-Training for Vision Transformers".

    python recipes/image_restoration.py --data photos/ --out runs/clear --perturbations blur=2 noise=0.05
    mmssl reveal runs/clear
    mmssl restore runs/clear photo.jpg --out restored/

Minutes on two CPU cores, to see that it works:

    python recipes/image_restoration.py --data photos/ --out runs/try --perturbations mask=0.5 downsample=4 --steps 200
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from image_pretraining import (
    Pictures,
    PixelRunConfig,
    backbone,
    check_preset,
    open_pictures,
    starting_model,
    train_pixels,
    with_crops,
)

from mmssl.errors import one_sentence_errors
from mmssl.predictors.restoration import Restoration, RestorationConfig
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LARGEST = 96
"""Pixels of the crops, unless told otherwise: what two CPU cores can do."""


@dataclass(frozen=True, kw_only=True)
class Config(PixelRunConfig):
    """Learn to undo perturbations of photos."""

    perturbations: tuple[str, ...] = ("blur=2",)
    """One after the other: mask=SHARE, downsample=TIMES, blur=SIGMA, noise=SIGMA, zoom=TIMES, grey."""
    sampler: Literal["random", "block", "inverse_block"] = "random"
    """Which patches, of --patch-size, the perturbation mask hides together."""


def describe_model(config: Config, pictures: Pictures) -> RestorationConfig:
    """The model that the flags ask for."""
    common = backbone(config, pictures, masks=True)
    return RestorationConfig(**common, perturbations=config.perturbations, sampler=config.sampler)


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    check_preset(config)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # data
    config = with_crops(config)
    pictures = open_pictures(config, device, scale=config.crop_scale, zoom=config.zoom, largest=LARGEST)

    # predictor
    torch.manual_seed(config.seed)
    model = starting_model(config, run, describe_model(config, pictures))
    predictor = Restoration(model).to(device)

    # pretrain and report
    return train_pixels(config, run, predictor, pictures)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
