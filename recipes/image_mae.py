"""Pretrain a masked autoencoder on a folder of photos.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

    python recipes/image_mae.py --data photos/ --out runs/photos
    mmssl reveal runs/photos
    mmssl probe runs/photos --data labelled_photos/

Two minutes on two CPU cores, to see that it works:

    python recipes/image_mae.py --data photos/ --out runs/try --steps 200
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from mmssl.config import to_dict
from mmssl.data.images import ImageLoader, centre_crops, suggest_size, write_skipped
from mmssl.errors import INTERRUPTED, UserError, one_sentence_errors
from mmssl.evaluation.features import to_device
from mmssl.evaluation.image_runs import split_images
from mmssl.evaluation.reveal import write_reveal
from mmssl.interchange import adapt_config, load_initial_weights
from mmssl.masking import hidden_count
from mmssl.nn.patches import patch_grid
from mmssl.predictors.masked_autoencoder import PRESETS, MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.training.config import RunConfig
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, choose_device, parse_flags, say_start

LEARNING_RATE = {192: 2e-3, 384: 1e-3, 768: 6e-4}
"""Peak rate at 256 samples a step by width of the encoder; it grows with the square root of the batch, as suits Adam
(Malladi et al. 2022). From 768 on it meets the paper's 2.4e-3 at its batch of 4096 (He et al. 2022, table 8); for
narrower encoders it is our choice."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Pretrain a masked autoencoder on a folder of photos."""

    preset: str = "nano"
    """Size of the model: nano, tiny, small, base or large."""
    image_size: tuple[int, ...] | None = None
    """Pixels: one number, or height and width. Default: from the data."""
    patch_size: tuple[int, ...] | None = None
    """Pixels: one number, or height and width; must divide the image. Default: from the image size."""
    channels: int = 3
    """1 grey, 3 colour, 4 with transparency; any other number for .npy files."""
    architecture: Literal["mae", "cross_mae", "simmim"] = "mae"
    """mae: full decoder. cross_mae: faster decoder, another objective. simmim: mask vectors inside the encoder."""
    sampler: Literal["random", "block", "inverse_block"] = "random"
    """Which patches are hidden together."""
    target: Literal["normalized_pixels", "pixels"] = "normalized_pixels"
    """Predict pixels normalised within a patch (better features) or plain pixels (better pictures)."""
    decoded_fraction: float | None = None
    """cross_mae: share of the hidden patches decoded in a step. Default: a quarter, but at least 36 patches."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of the share of a picture's area that a training crop keeps (He et al. 2022, appendix A.1)."""
    flip: bool = True
    """Mirror half of the training pictures left to right."""
    validation_images: int = 1024
    """At most this many held-out pictures are used for validation."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Keep decoded pictures in memory; auto does where they fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1 or self.validation_images < 1:
            raise UserError("--channels and --validation-images must be at least 1")


def describe_model(
    config: Config, size: tuple[int, int], patch: tuple[int, int], loader: ImageLoader
) -> MaskedAutoencoderConfig:
    """The model that the flags ask for, with the data's own mean and standard deviation."""
    encoder, decoder = PRESETS[config.preset]
    mean, std = loader.mean_std()
    return MaskedAutoencoderConfig(
        image_size=size,
        patch_size=patch,
        encoder=encoder,
        decoder=decoder,
        architecture=config.architecture,
        mask_fraction=config.mask_fraction,
        sampler=config.sampler,
        target=config.target,
        decoded_fraction=(
            default_decoded(size, patch, config.mask_fraction)
            if config.decoded_fraction is None
            else config.decoded_fraction
        ),
        channels=config.channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def pair(numbers: tuple[int, ...] | None, flag: str) -> tuple[int, int] | None:
    """One number is a square; two are height and width."""
    if numbers is not None and (len(numbers) not in (1, 2) or min(numbers) < 1):
        raise UserError(f"{flag} takes one number, or height and width, got {' '.join(map(str, numbers))}")
    return None if numbers is None else (numbers[0], numbers[-1])


def default_patch(size: tuple[int, int]) -> tuple[int, int]:
    """32-pixel pictures want patches of 4, 64 to 128 of 8, larger ones of 16."""
    edge = 4 if min(size) < 64 else 8 if min(size) <= 128 else 16
    return edge, edge


def default_decoded(size: tuple[int, int], patch: tuple[int, int], mask_fraction: float) -> float:
    """A quarter is CrossMAE's choice at 147 hidden patches, which is 36 (Fu et al. 2024); fewer teach less a step.

    On 32-pixel pictures, with 48 hidden patches, a quarter cost two points of probe accuracy at equal steps.
    """
    rows, columns = patch_grid(size, patch)
    return min(1.0, max(0.25, 36 / hidden_count(rows * columns, mask_fraction)))


def default_learning_rate(model: MaskedAutoencoderConfig, batch_size: int) -> float:
    """By the width of the encoder, which --init may have changed from the preset's."""
    width = max((dim for dim in LEARNING_RATE if dim <= model.encoder.dim), default=min(LEARNING_RATE))
    return LEARNING_RATE[width] * math.sqrt(batch_size / 256)


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # data
    train_images, val_images = split_images(config.data, config.channels)
    val_images = val_images.spread(config.validation_images)
    size = pair(config.image_size, "--image-size") or suggest_size(train_images)
    patch = pair(config.patch_size, "--patch-size") or default_patch(size)
    reading = {"size": size, "batch_size": config.micro_batch_size, "seed": config.seed, "workers": config.workers,
               "device": device, "cache": config.cache, "min_size": patch}  # fmt: skip
    loader = ImageLoader(train_images, scale=config.crop_scale, flip=config.flip, **reading)
    val_loader = ImageLoader(val_images, **reading)

    # predictor
    torch.manual_seed(config.seed)
    model = describe_model(config, size, patch, loader)
    if config.init and not config.resume:
        model = adapt_config(model, config.init, keep_patch_size=config.patch_size is not None)
    elif config.init and run.config_file.is_file():  # the folder of --init may be gone by now
        model = run.saved_predictor(MaskedAutoencoderConfig)
    config = replace(config, learning_rate=config.learning_rate or default_learning_rate(model, config.batch_size))
    predictor = MaskedAutoencoder(model).to(device)
    data = {"fingerprint": train_images.fingerprint(), "train": len(loader), "val": len(val_loader)}
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
    write_skipped(run.path, train_images, val_images)
    say_start(config, predictor, data, device)
    if config.init and checkpoint is None:
        print(f"init       {load_initial_weights(predictor, config.init)}")

    # pretrain
    shown = val_images.spread(8)
    pictures = to_device(centre_crops(shown, range(len(shown)), size), device)
    trainer = Trainer(
        predictor, config, run, loader, val_loader.frozen,
        on_validate=lambda step: write_reveal(predictor, pictures, run.reveal / f"step-{step:08d}.png", step),
    )  # fmt: skip
    finished = trainer.fit(checkpoint)

    # report
    if not finished:
        print(f"interrupted and saved: add --resume to continue\n{run.path}")
        raise SystemExit(INTERRUPTED)
    print(f"pictures: {run.reveal / f'step-{config.steps:08d}.png'}")
    print(f"next: mmssl probe {run.path} --data LABELLED_FOLDER")
    print(run.path)
    return run.path


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
