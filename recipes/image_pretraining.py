"""What the recipes of pictures share: flags, loaders, and the way from a model to a finished run."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

import torch

from mmssl.config import to_dict
from mmssl.data.images import ImageLoader, centre_crops, suggest_size, write_skipped
from mmssl.data.shards.order import order_in_words
from mmssl.errors import INTERRUPTED, UserError
from mmssl.evaluation.features import to_device
from mmssl.evaluation.image_runs import split_images
from mmssl.evaluation.reveal import write_reveal
from mmssl.interchange import adapt_pixel_config, load_initial_pixel_weights, load_pretrained
from mmssl.nn.transformer import PRESETS
from mmssl.predictors.base import Batch, Predictor
from mmssl.predictors.pixels import PixelConfig, PixelPredictor
from mmssl.terminal import tell
from mmssl.training.config import RunConfig
from mmssl.training.distributed import is_main, place, share_of_batch
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, say_start

REFERENCE_BATCH = 256
"""Samples of a step that the recipes' learning rates are for."""
LEARNING_RATE = {96: 5e-3, 192: 2e-3, 384: 1e-3, 768: 6e-4}
"""Peak rate of pixel predictors at 256 samples a step, by width of the trunk: MAE's here, our choice."""
TIMM_RATE = 1e-3
"""Likewise with a model of timm; our choice."""
SHOWN = 8
"""Held-out pictures in the sheets of a run."""

NATIVE = (1.0, 2.0)
"""Crops of tasks on fine detail: from pixels as they are to half their resolution."""
WHOLE = (0.2, 1.0)
"""Crops of tasks on what a picture shows, by share of area: MAE's (He et al. 2022, appendix A.1)."""

C = TypeVar("C", bound="ImageRunConfig")
P = TypeVar("P", bound="PixelRunConfig")
M = TypeVar("M", bound=PixelConfig)


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig(RunConfig):
    """Flags of every recipe of pictures."""

    preset: str = "nano"
    """Size of the model: pico, nano, tiny, small, base or large."""
    image_size: tuple[int, ...] | None = None
    """Pixels: one number, or height and width. Default: from the data."""
    patch_size: tuple[int, ...] | None = None
    """Pixels: one number, or height and width; must divide the image. Default: from the image size."""
    channels: int = 3
    """1 grey, 3 colour, 4 with transparency; any other number for .npy files."""
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


@dataclass(frozen=True, kw_only=True)
class PixelRunConfig(ImageRunConfig):
    """Flags of every recipe that predicts pictures."""

    timm_model: str = ""
    """A model of timm with feature maps, such as resnet18, in place of the trunk of --preset."""
    pretrained: bool = False
    """Start from timm's published weights of --timm-model."""
    decoder_dim: int = 32
    """Channels of the decoder."""
    detail: int = 4
    """Residual blocks of the decoder that also see the input; 0: the backbone must know everything."""
    channels: int = 3
    """1 grey, 3 colour."""
    zoom: tuple[float, float] | None = None
    """A crop shows a box of this range of times its size: at 1 pixels as they are. Default by task: 1 to 2, but
    colorization uses --crop-scale."""
    crop_scale: tuple[float, float] | None = None
    """Instead: range of the share of a picture's area that a training crop keeps, as in image_mae.py."""
    batch_size: int = 16
    """Samples an optimizer step, over all micro-batches."""
    validation_images: int = 256
    """At most this many held-out pictures are used for validation."""
    weight_decay: float = 0.01
    """AdamW's weight decay; not applied to norms, biases, tokens and positions."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's betas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (1, 3):
            raise UserError(f"--channels {self.channels} is impossible: 1 is grey, 3 is colour")
        if self.zoom and self.crop_scale:
            raise UserError("--zoom and --crop-scale both say how pictures are cropped: give one of them")
        if self.pretrained and (not self.timm_model or self.init):
            raise UserError("--pretrained loads the weights of --timm-model: give that, and no --init")
        if self.timm_model and self.preset not in ("pico", "nano"):
            raise UserError(f"--timm-model {self.timm_model} stands in for --preset {self.preset}: give one of them")


class Statistics(TypedDict):
    """Mean and standard deviation by channel, as configs of models name them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Pictures:
    """Pictures to train on, and pictures held out."""

    train: ImageLoader
    val: ImageLoader
    device: torch.device

    def validation(self) -> Iterator[Batch]:
        """The same crops each time, of which each rank has a share."""
        return self.val.frozen(share=place())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all crops."""
        return self.train.law.size

    def describe(self) -> dict[str, str | int]:
        """What a resumed run must find again."""
        found = {"fingerprint": self.train.source.fingerprint(), "train": len(self.train), "val": len(self.val)}
        return found | ({"order": said} if (said := order_in_words(self.train.order)) else {})

    def statistics(self) -> Statistics:
        """Mean and standard deviation by channel, for the config of a model."""
        mean, std = self.train.mean_std()
        return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}


def pair(numbers: tuple[int, ...] | None, flag: str) -> tuple[int, int] | None:
    """One number is a square; two are height and width."""
    if numbers is not None and (len(numbers) not in (1, 2) or min(numbers) < 1):
        raise UserError(f"{flag} takes one number, or height and width, got {' '.join(map(str, numbers))}")
    return None if numbers is None else (numbers[0], numbers[-1])


def default_patch(size: tuple[int, int]) -> tuple[int, int]:
    """32-pixel pictures want patches of 4, 64 to 128 of 8, larger ones of 16."""
    edge = 4 if min(size) < 64 else 8 if min(size) <= 128 else 16
    return edge, edge


def check_preset(config: ImageRunConfig) -> None:
    """Raises UserError for a preset that there is not."""
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")


def open_pictures(
    config: ImageRunConfig,
    device: torch.device,
    *,
    scale: tuple[float, float] | None = None,
    zoom: tuple[float, float] | None = None,
    largest: int | None = None,
    enlarge: bool = True,
) -> Pictures:
    """Loaders of the training and the held-out part; the size is that of the flags, or suggested by the data.

    Args:
        scale, zoom: the law of the crops, see :class:`ImageLoader`.
        largest: no larger size than this is suggested.
        enlarge: also take pictures smaller than a crop; without, they are skipped as too small.
    """
    train_images, val_images = split_images(config.data, config.channels)
    val_images = val_images.spread(config.validation_images)
    # where small ones are lost, the size is one that nearly all pictures have
    size = pair(config.image_size, "--image-size") or suggest_size(train_images, 0.5 if enlarge else 0.02, largest)
    least = (pair(config.patch_size, "--patch-size") or default_patch(size)) if enlarge else size
    reading = {"size": size, "seed": config.seed, "workers": config.workers, "device": device, "cache": config.cache,
               "min_size": least, "zoom": zoom}  # fmt: skip
    crops = {} if scale is None else {"scale": scale}
    share, (rank, ranks) = share_of_batch(config.batch_size, config.accumulation), place()
    train = ImageLoader(
        train_images, batch_size=share, flip=config.flip, rank=rank, world_size=ranks, **crops, **reading
    )
    return Pictures(train, ImageLoader(val_images, batch_size=config.micro_batch_size, **reading), device)


def with_rate(config: C, rates: Mapping[int, float], width: int) -> C:
    """The flags with a learning rate: by the width of the encoder, which --init may have changed from the preset's.

    It grows with the square root of the batch, as suits Adam (Malladi et al. 2022).
    """
    width = max((dim for dim in rates if dim <= width), default=min(rates))
    rate = config.learning_rate or rates[width] * math.sqrt(config.batch_size / REFERENCE_BATCH)
    return replace(config, learning_rate=rate)


def start(config: ImageRunConfig, run: RunFolder, predictor: Predictor, pictures: Pictures) -> Path | None:
    """Open the run folder, and say what will run; returns the checkpoint to go on from."""
    data = pictures.describe()
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
    if is_main():
        write_skipped(run.path, pictures.train.source, pictures.val.source)
    say_start(config, predictor, data, pictures.device, size=getattr(config, "timm_model", "") or config.preset)
    if "order" in data:
        tell(f"order      {data['order']}")
    return checkpoint


def train(
    config: ImageRunConfig, run: RunFolder, predictor: Predictor, pictures: Pictures, checkpoint: Path | None
) -> Path:
    """Train to the end, with a sheet of pictures at each validation; returns the run folder."""
    shown = pictures.val.source.spread(SHOWN)
    crops = centre_crops(shown, range(len(shown)), pictures.size, zoom=pictures.train.law.zoom)
    batch = to_device(crops, pictures.device)
    trainer = Trainer(
        predictor, config, run, pictures.train, pictures.validation,
        on_validate=lambda step: write_reveal(predictor, batch, run.reveal / f"step-{step:08d}.png", step),
    )  # fmt: skip
    finished = trainer.fit(checkpoint)
    if not finished:
        tell(f"interrupted and saved: add --resume to continue\n{run.path}")
        raise SystemExit(INTERRUPTED)
    tell(f"pictures: {run.reveal / f'step-{config.steps:08d}.png'}")
    tell(f"next: mmssl probe {run.path} --data LABELLED_FOLDER")
    tell(run.path)
    return run.path


# what recipes that predict pictures share


def with_crops(config: P, whole: bool = False) -> P:
    """The flags with a law of crops: pixels as they are unless told otherwise, or, ``whole``, mostly whole pictures."""
    if config.zoom or config.crop_scale:
        return config
    return replace(config, crop_scale=WHOLE) if whole else replace(config, zoom=NATIVE)


def backbone(config: PixelRunConfig, pictures: Pictures, *, shrunk: int = 1, masks: bool = False) -> dict[str, Any]:
    """What the configs of all pixel predictors have in common.

    ``shrunk``: the backbone is given pictures so many times smaller; ``masks``: patches are also what is hidden.
    """
    patch = pair(config.patch_size, "--patch-size")
    if config.timm_model and patch and not masks:
        raise UserError(f"--patch-size is for the trunk, {config.timm_model} has its own strides: leave it out")
    height, width = pictures.size
    return {
        "image_size": pictures.size, "encoder": None if config.timm_model else PRESETS[config.preset](),
        "timm_model": config.timm_model, "patch_size": patch or default_patch((height // shrunk, width // shrunk)),
        "decoder_dim": config.decoder_dim, "detail": config.detail, "channels": config.channels,
        **pictures.statistics(),
    }  # fmt: skip


def starting_model(config: PixelRunConfig, run: RunFolder, model: M) -> M:
    """The model of the flags, fitted to the weights of --init or --pretrained; when a run goes on, its own."""
    trained = config.init or config.pretrained
    if trained and not config.resume:
        return adapt_pixel_config(model, config.init or None, keep_patch_size=config.patch_size is not None)
    if trained and run.config_file.is_file():  # the folder of --init may be gone by now
        return run.saved_predictor(type(model))
    return model


def train_pixels(config: PixelRunConfig, run: RunFolder, predictor: PixelPredictor, pictures: Pictures) -> Path:
    """Load what --init or --pretrained ask for, and train to the end; returns the run folder."""
    trunk = predictor.config.encoder
    rates, width = ({0: TIMM_RATE}, 0) if trunk is None else (LEARNING_RATE, trunk.dim)
    config = with_rate(config, rates, width)
    checkpoint = start(config, run, predictor, pictures)
    if config.init and checkpoint is None:
        tell(f"init       {load_initial_pixel_weights(predictor, config.init)}")
    if config.pretrained and checkpoint is None:
        tell(f"init       {load_pretrained(predictor)}")
    return train(config, run, predictor, pictures, checkpoint)
