"""Learn to make photos 2, 4 or 8 times as large, and sharp.

Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network"; the difference to bicubic enlargement as in Kim et al. 2016.

    python recipes/image_super_resolution.py --data photos/ --out runs/sharp --scale 4
    mmssl reveal runs/sharp
    mmssl restore runs/sharp photo.jpg --out restored/

Minutes on two CPU cores, to see that it works:

    python recipes/image_super_resolution.py --data photos/ --out runs/try --steps 200

The classic setting, 64 pixels to 512: --scale 8 --image-size 512.
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
from mmssl.predictors.super_resolution import SuperResolution, SuperResolutionConfig
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LARGEST = 96
"""Pixels of the sharp crops, unless told otherwise: what two CPU cores can do."""


@dataclass(frozen=True, kw_only=True)
class Config(PixelRunConfig):
    """Learn to enlarge photos."""

    preset: str = "pico"
    """Size of the trunk: pico, nano, tiny, small, base or large."""
    scale: Literal[2, 4, 8] = 4
    """How many times higher and wider the result is."""
    given: Literal["small", "enlarged"] = "small"
    """What the network sees: the small picture, or that enlarged, to compare representations."""


def describe_model(config: Config, pictures: Pictures) -> SuperResolutionConfig:
    """The model that the flags ask for."""
    shrunk = config.scale if config.given == "small" else 1
    return SuperResolutionConfig(**backbone(config, pictures, shrunk=shrunk), scale=config.scale, given=config.given)


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    check_preset(config)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # data
    config = with_crops(config)
    pictures = open_pictures(
        config, device, scale=config.crop_scale, zoom=config.zoom, largest=LARGEST, enlarge=False
    )  # an enlarged picture has no detail to learn

    # predictor
    torch.manual_seed(config.seed)
    model = starting_model(config, run, describe_model(config, pictures))
    predictor = SuperResolution(model).to(device)

    # pretrain and report
    return train_pixels(config, run, predictor, pictures)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
