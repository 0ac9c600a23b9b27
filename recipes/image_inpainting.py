"""Learn to fill holes in photos from what is around them.

Pathak et al. 2016, "Context Encoders: Feature Learning by Inpainting"; holes as in Yu et al. 2019, "Free-Form Image
Inpainting with Gated Convolution".

    python recipes/image_inpainting.py --data photos/ --out runs/holes
    mmssl reveal runs/holes
    mmssl restore runs/holes photo.jpg --mask hole.png --out restored/

Minutes on two CPU cores, to see that it works:

    python recipes/image_inpainting.py --data photos/ --out runs/try --steps 200
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
from mmssl.predictors.inpainting import Inpainting, InpaintingConfig
from mmssl.training.config import MaskedRunConfig
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LARGEST = 64
"""Pixels of the crops, unless told otherwise: what two CPU cores can do."""


@dataclass(frozen=True, kw_only=True)
class Config(PixelRunConfig, MaskedRunConfig):
    """Learn to fill holes in photos."""

    preset: str = "pico"
    """Size of the trunk: pico, nano, tiny, small, base or large."""
    hole: Literal["centre", "blocks", "free_form"] = "free_form"
    """Shape of the hole: one rectangle in the centre, several anywhere, or brush strokes."""
    mask_fraction: float = 0.25
    """Share of the picture in the hole."""
    overlap: int = 4
    """Pixels around the hole that are predicted too, in training."""
    gradient_weight: float = 1.0
    """Weight of the error of differences between neighbouring pixels beside that of pixels."""


def describe_model(config: Config, pictures: Pictures) -> InpaintingConfig:
    """The model that the flags ask for."""
    return InpaintingConfig(
        **backbone(config, pictures),
        hole=config.hole,
        mask_fraction=config.mask_fraction,
        overlap=config.overlap,
        gradient_weight=config.gradient_weight,
    )


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
    predictor = Inpainting(model).to(device)

    # pretrain and report
    return train_pixels(config, run, predictor, pictures)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
