"""Learn the colours of photos from their lightness.

Zhang et al. 2016, "Colorful Image Colorization".

    python recipes/image_colorization.py --data photos/ --out runs/colours
    mmssl reveal runs/colours
    mmssl restore runs/colours grey_photo.jpg --out restored/

Minutes on two CPU cores, to see that it works:

    python recipes/image_colorization.py --data photos/ --out runs/try --steps 200
"""

from collections.abc import Iterator
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

from mmssl.errors import UserError, one_sentence_errors
from mmssl.predictors.base import Batch
from mmssl.predictors.colorization import Colorization, ColorizationConfig
from mmssl.terminal import tell
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LARGEST = 128
"""Pixels of the crops, unless told otherwise: what two CPU cores can do."""
OBSERVED = 1000
"""Training pictures whose colours are counted before training."""
GREY = 2
"""A picture whose channels differ by no more than so many of 255 levels is grey."""
MANY_GREY = 0.1
"""Share of grey pictures worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Config(PixelRunConfig):
    """Learn the colours of photos."""

    objective: Literal["classes", "regression"] = "classes"
    """classes: a distribution over colours, rare ones weighing more. regression: prefers grey when in doubt."""
    reduce: int = 4
    """Colours are predicted at so many times fewer rows and columns."""
    rebalance: float = 0.1
    """How much more rare colours weigh in training, from 0, not at all, to below 1."""
    temperature: float = 0.38
    """Of the annealed mean of classes: 1 is the mean of the distribution, towards 0 its most likely colour."""


def describe_model(config: Config, pictures: Pictures) -> ColorizationConfig:
    """The model that the flags ask for."""
    return ColorizationConfig(
        **backbone(config, pictures),
        objective=config.objective,
        reduce=config.reduce,
        rebalance=config.rebalance,
        temperature=config.temperature,
    )


def observe(predictor: Colorization, pictures: Pictures) -> None:
    """Count the colours of the training pictures, and those that have none. Raises UserError where none has any."""
    seen, grey = 0, 0

    def counted() -> Iterator[Batch]:
        nonlocal seen, grey
        for batch in pictures.train.spread(OBSERVED):
            image = batch["image"]
            seen += len(image)
            grey += int((image.amax(1) - image.amin(1) <= GREY).flatten(1).all(1).sum())
            yield batch

    predictor.observe(counted())
    if grey == seen:
        raise UserError(f"all {seen} pictures of {pictures.train.source.name} are grey: give some that have colours")
    if grey:
        advice = ": they teach grey, so better leave them out" if grey > MANY_GREY * seen else ""
        tell(f"{'warning' if advice else 'note':10} {grey} of {seen} training pictures looked at are grey{advice}")


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    check_preset(config)
    run = RunFolder(config.out, config.keep_checkpoints)
    newest = run.check(config.resume)

    # data
    config = with_crops(config, whole=True)
    pictures = open_pictures(config, device, scale=config.crop_scale, zoom=config.zoom, largest=LARGEST)

    # predictor
    torch.manual_seed(config.seed)
    model = starting_model(config, run, describe_model(config, pictures))
    predictor = Colorization(model).to(device)
    if newest is None:
        observe(predictor, pictures)

    # pretrain and report
    return train_pixels(config, run, predictor, pictures)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
