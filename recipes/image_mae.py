"""Pretrain a masked autoencoder on a folder of photos.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners".

    python recipes/image_mae.py --data photos/ --out runs/photos
    mmssl reveal runs/photos
    mmssl probe runs/photos --data labelled_photos/

Two minutes on two CPU cores, to see that it works:

    python recipes/image_mae.py --data photos/ --out runs/try --steps 200
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from image_pretraining import (
    ImageRunConfig,
    Pictures,
    check_preset,
    default_patch,
    open_pictures,
    pair,
    start,
    train,
    with_rate,
)

from mmssl.errors import one_sentence_errors
from mmssl.interchange import adapt_config, load_initial_weights
from mmssl.masking import hidden_count
from mmssl.nn.patches import patch_grid
from mmssl.predictors.masked_autoencoder import PRESETS, MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.terminal import tell
from mmssl.training.config import MaskedRunConfig
from mmssl.training.distributed import torchrun_ranks
from mmssl.training.run import RunFolder, choose_device, parse_flags

LEARNING_RATE = {192: 2e-3, 384: 1e-3, 768: 6e-4}
"""Peak rate at 256 samples a step by width of the encoder; it grows with the square root of the batch, as suits Adam
(Malladi et al. 2022). From 768 on it meets the paper's 2.4e-3 at its batch of 4096 (He et al. 2022, table 8); for
narrower encoders it is our choice."""


@dataclass(frozen=True, kw_only=True)
class Config(ImageRunConfig, MaskedRunConfig):
    """Pretrain a masked autoencoder on a folder of photos."""

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


def describe_model(config: Config, pictures: Pictures) -> MaskedAutoencoderConfig:
    """The model that the flags ask for, with the data's own mean and standard deviation."""
    encoder, decoder = PRESETS[config.preset]
    size = pictures.size
    patch = pair(config.patch_size, "--patch-size") or default_patch(size)
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
        **pictures.statistics(),
    )


def default_decoded(size: tuple[int, int], patch: tuple[int, int], mask_fraction: float) -> float:
    """A quarter is CrossMAE's choice at 147 hidden patches, which is 36 (Fu et al. 2024); fewer teach less a step.

    On 32-pixel pictures, with 48 hidden patches, a quarter cost two points of probe accuracy at equal steps.
    """
    rows, columns = patch_grid(size, patch)
    return min(1.0, max(0.25, 36 / hidden_count(rows * columns, mask_fraction)))


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    check_preset(config)
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # data
    pictures = open_pictures(config, device, scale=config.crop_scale)

    # predictor
    torch.manual_seed(config.seed)
    model = describe_model(config, pictures)
    if config.init and not config.resume:
        model = adapt_config(model, config.init, keep_patch_size=config.patch_size is not None)
    elif config.init and run.config_file.is_file():  # the folder of --init may be gone by now
        model = run.saved_predictor(MaskedAutoencoderConfig)
    config = with_rate(config, LEARNING_RATE, model.encoder.dim)
    predictor = MaskedAutoencoder(model).to(device)
    checkpoint = start(config, run, predictor, pictures)
    if config.init and checkpoint is None:
        tell(f"init       {load_initial_weights(predictor, config.init)}")

    # pretrain and report
    return train(config, run, predictor, pictures, checkpoint)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
