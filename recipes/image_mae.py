"""Pretrain a masked autoencoder on a folder of photos.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

    python recipes/image_mae.py --data photos/ --out runs/photos
    mmssl reveal runs/photos
    mmssl probe runs/photos --data labelled_photos/

Two minutes on two CPU cores, to see that it works:

    python recipes/image_mae.py --data photos/ --out runs/try --steps 200
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from mmssl.config import to_dict
from mmssl.data import ImageLoader, ImageSource, open_images, suggest_size, write_skipped
from mmssl.errors import UserError, one_sentence_errors
from mmssl.evaluation.reveal import write_reveal
from mmssl.predictors.masked_autoencoder import PRESETS, MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.training.config import RunConfig
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, choose_device, parse_flags, say_start

LEARNING_RATE = {"nano": 1.5e-3, "tiny": 1e-3, "small": 6e-4, "base": 1.5e-4, "large": 1.5e-4}
"""Peak rate at 256 samples a step, scaled in proportion. Base and large: He et al. 2022, table 8; others ours."""


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Pretrain a masked autoencoder on a folder of photos."""

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
    decoded_fraction: float = 0.25
    """cross_mae: share of the hidden patches decoded in a step."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of the share of a picture's area that a training crop keeps (He et al. 2022, appendix A.1)."""
    flip: bool = True
    """Mirror half of the training pictures left to right."""
    validation_images: int = 1024
    """At most this many held-out pictures are used for validation."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Keep decoded pictures in memory; auto does where they fit."""


def describe_model(config: Config, size: tuple[int, int], loader: ImageLoader) -> MaskedAutoencoderConfig:
    """The model that the flags ask for, with the data's own mean and standard deviation."""
    encoder, decoder = PRESETS[config.preset]
    mean, std = loader.mean_std()
    return MaskedAutoencoderConfig(
        image_size=size,
        patch_size=pair(config.patch_size, "--patch-size") or default_patch(size),
        encoder=encoder,
        decoder=decoder,
        architecture=config.architecture,
        mask_fraction=config.mask_fraction,
        sampler=config.sampler,
        target=config.target,
        decoded_fraction=config.decoded_fraction,
        channels=config.channels,
        mean=tuple(mean),
        std=tuple(std),
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


def open_data(config: Config) -> tuple[ImageSource, ImageSource]:
    """Training and validation pictures: splits of the data where it has them, else 5 % are held out."""
    everything = open_images(config.data, channels=config.channels)
    train_split = "train" if "train" in everything.splits else None
    held_out = next((name for name in ("val", "test") if name in everything.splits), "val")
    train = open_images(config.data, split=train_split, channels=config.channels)
    return train, open_images(config.data, split=held_out, channels=config.channels)


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    if config.learning_rate is None:
        config = replace(config, learning_rate=LEARNING_RATE[config.preset] * config.batch_size / 256)
    run = RunFolder(config.out, config.keep_checkpoints)

    # data
    train_images, val_images = open_data(config)
    size = pair(config.image_size, "--image-size") or suggest_size(train_images)
    loader = ImageLoader(
        train_images, size=size, batch_size=config.micro_batch_size, seed=config.seed, workers=config.workers,
        device=device, cache=config.cache, scale=config.crop_scale, flip=config.flip,
    )  # fmt: skip
    val_loader = ImageLoader(
        val_images, size=size, batch_size=config.micro_batch_size, workers=config.workers, device=device,
        cache=config.cache, limit=config.validation_images,
    )  # fmt: skip

    # predictor
    torch.manual_seed(config.seed)
    predictor = MaskedAutoencoder(describe_model(config, size, loader)).to(device)
    data = {"fingerprint": train_images.fingerprint(), "train": len(train_images), "val": len(val_images)}
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
    write_skipped(run.path, train_images, val_images)
    say_start(config, predictor, data, device)

    # pretrain
    def validation():
        return val_loader.frozen(config.micro_batch_size)

    pictures = {name: value[:8] for name, value in next(iter(val_loader.frozen(8))).items()}
    trainer = Trainer(
        predictor, config, run, loader, validation,
        on_validate=lambda step: write_reveal(predictor, pictures, run.reveal / f"step-{step:08d}.png", step),
    )  # fmt: skip
    finished = trainer.fit(checkpoint)

    # report
    if not finished:
        raise KeyboardInterrupt
    print(f"pictures: {run.reveal / f'step-{config.steps:08d}.png'}")
    print(f"next: mmssl probe {run.path} --data LABELLED_FOLDER")
    print(run.path)
    return run.path


def main() -> None:
    """Command line."""
    with one_sentence_errors():
        pretrain(parse_flags(Config))


if __name__ == "__main__":
    main()
