"""Super-resolution at equal training time: ours against the plain network that tutorials start from.

    python tests/benchmarks/super_resolution.py --data images_photos --minutes 20

The plain network is rebuilt here: 12 residual 3x3 convolutions of 4 to 32 channels with batch norm, on the picture that
bicubic interpolation enlarged; its answer is the sigmoid of output plus input; squared error, Adam. Ours is what
recipes/image_super_resolution.py trains with its default settings: predictor, loss, optimizer, rate, batch size.

Both are given the same crops of the same photos in the same order, one thread each, and as many steps as their time
allows, reading included (processor time, so that other work on the machine matters less). Both have our schedule,
warm-up and half a cosine over the time. The plain one is trained once for each of several rates, each with the whole
time, and the best is taken by what counts in the end, the unseen photos: a choice in its favour.

Measured is PSNR of the luma, edges of as many pixels as the factor left out, on whole unseen photos; small pictures
and results are rounded to bytes, as files are. Spread is the sample standard deviation over photos.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from harness import hardware, versions
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.data.images import ImageLoader, ImageSource, open_images
from mmssl.evaluation.image_runs import split_images
from mmssl.evaluation.restore import Restorer
from mmssl.evaluation.tiles import apply_tiled, to_bytes, to_unit
from mmssl.perturbations.colour import luma
from mmssl.perturbations.pictures import downsample, enlarge
from mmssl.predictors.base import Batch
from mmssl.predictors.fidelity import psnr
from mmssl.predictors.super_resolution import SuperResolution
from mmssl.training.optimizer import learning_rate_at, make_optimizer

sys.path.append(str(Path(__file__).resolve().parents[2] / "recipes"))
from image_pretraining import LEARNING_RATE, Pictures, with_crops, with_rate
from image_super_resolution import LARGEST, Config, describe_model

CPU = torch.device("cpu")
WIDTHS = (4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 3)
RATES = (1e-3, 3e-3, 1e-2)
"""Of the plain network: Adam's usual one, and higher ones."""
HELD_OUT = 5
"""One in so many groups of photos is unseen, where the data has no split of its own."""

Enlarge = Callable[[Tensor], Tensor]
"""Small pictures in bytes, [channel, height, width], to large ones in bytes."""


class PlainNetwork(nn.Module):
    """Enlarged pictures in, sharper ones out. Where a convolution widens, zeros fill up what is added to it."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(zip((3, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.convolutions = nn.ModuleList(nn.Conv2d(given, width, 3, padding=1) for given, width in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in WIDTHS[:-1])

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            wider = F.pad(x, (0, 0, 0, 0, 0, convolution.out_channels - x.shape[1]))
            x = wider + torch.relu(norm(convolution(x)))
        return torch.sigmoid(self.convolutions[-1](x) + image)


def split_photos(data: str) -> tuple[ImageSource, ImageSource]:
    """Training photos and unseen ones: the data's own split, or one in five ``group``s of its manifest, by a hash of
    their names, so that no view of an unseen photo is trained on."""
    photos = open_images(data)
    if "train" in photos.splits:
        return split_images(data, 3)
    groups = photos.column("group")
    unseen = [hashlib.blake2b(group.encode()).digest()[0] % HELD_OUT == 0 for group in groups]
    parts = [[number for number, held in enumerate(unseen) if held == wanted] for wanted in (False, True)]
    print(f"photos     no training split in {data}: by groups, {len({*groups})} of them")
    return photos.subset(parts[0]), photos.subset(parts[1])


def steps_in(minutes: float, peak: float, batches: Iterator[Batch], step: Callable[[Batch, float], None]) -> int:
    """Train until the processor time of this process has grown by ``minutes``; returns the number of steps."""
    start, done = time.process_time(), 0
    while (share := (time.process_time() - start) / (60 * minutes)) < 1:
        step(next(batches), learning_rate_at(round(1000 * share), peak, 50, 1000))
        done += 1
    return done


def train_plain(loader: ImageLoader, scale: int, minutes: float, peak: float, seed: int) -> tuple[int, Enlarge]:
    """The tutorial's way."""
    torch.manual_seed(seed)
    network = PlainNetwork().to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step(batch: Batch, rate: float) -> None:
        image = to_unit(batch["image"])
        loss = F.mse_loss(network(enlarge(downsample(image, scale), image.shape[2:])), image)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    steps = steps_in(minutes, peak, loader.batches(), step)
    network.eval()
    return steps, lambda small: to_bytes(network(bicubic(to_unit(small)[None], scale))[0])


def train_ours(pictures: Pictures, config: Config, minutes: float) -> tuple[int, Enlarge]:
    """The recipe's way: what mmssl.training.loop does in a step, without its journal and checkpoints."""
    torch.manual_seed(config.seed)
    predictor = SuperResolution(describe_model(config, pictures)).train()
    predictor.seed = config.seed
    config = with_rate(config, LEARNING_RATE, predictor.config.encoder.dim)
    optimizer = make_optimizer(predictor, config.weight_decay, config.betas)

    def step(batch: Batch, rate: float) -> None:
        predictor(batch)["loss"].backward()
        nn.utils.clip_grad_norm_(predictor.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    steps = steps_in(minutes, config.learning_rate, pictures.train.batches(), step)
    restorer = Restorer.of(predictor.eval())  # tiles as `mmssl restore` has them
    return steps, lambda small: apply_tiled(
        predictor.restore, small, restorer.tile, restorer.overlap, scale=config.scale
    )


def bicubic(small: Tensor, scale: int) -> Tensor:
    """What costs no learning."""
    return enlarge(small, (small.shape[2] * scale, small.shape[3] * scale))


@torch.inference_mode()
def measure(photos: ImageSource, scale: int, enlarged_by: Enlarge) -> Tensor:
    """PSNR in dB of every photo."""
    found = []
    for number in range(len(photos)):
        photo = photos[number]["image"]
        height, width = (side // scale * scale for side in photo.shape[1:])
        large = to_unit(photo[:, :height, :width])[None]
        result = to_unit(enlarged_by(to_bytes(downsample(large, scale)[0])))[None]
        found.append(psnr(luma(result), luma(large), border=scale))
    return torch.cat(found)


def spread(values: Tensor) -> str:
    return f"{values.mean():.2f} ± {values.std():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Super-resolution at equal training time, in dB on unseen photos")
    parser.add_argument("--data", required=True, help="photos: a folder or tar file")
    parser.add_argument("--minutes", type=float, default=20.0, help="of processor time for each network and rate")
    parser.add_argument("--scale", type=int, default=4, choices=[2, 4, 8])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of the plain network")
    parser.add_argument("--image-size", type=int, default=LARGEST, help="of the sharp crops")
    parser.add_argument("--batch-size", type=int, default=Config.batch_size)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"hardware   {hardware(CPU)}; 1 thread; clock: cpu\nversions   {versions()}")

    train_photos, unseen = split_photos(options.data)
    config = with_crops(Config(data=options.data, out=Path(), scale=options.scale, batch_size=options.batch_size,
                               seed=options.seed))  # fmt: skip
    size = (options.image_size,) * 2
    loader = ImageLoader(
        train_photos, size=size, batch_size=config.batch_size, seed=config.seed, cache="memory", zoom=config.zoom,
        flip=config.flip, min_size=size,
    )  # fmt: skip
    print(f"photos     {len(loader)} for training, {len(unseen)} unseen; crops of {options.image_size} pixels, "
          f"{config.batch_size} a step; x{config.scale}, {options.minutes:g} minutes for each")  # fmt: skip

    reference = measure(unseen, config.scale, lambda small: to_bytes(bicubic(to_unit(small)[None], config.scale)[0]))
    print(f"{'':24}{'steps':>8}{'PSNR, dB':>16}{'above bicubic':>16}{'better on':>14}")
    print(f"{'bicubic':24}{'':8}{spread(reference):>16}", flush=True)

    def show(name: str, steps: int, values: Tensor) -> Tensor:
        gain = values - reference
        better = f"{int((gain > 0).sum())} of {len(gain)}"
        print(f"{name:24}{steps:>8}{spread(values):>16}{spread(gain):>16}{better:>14}", flush=True)
        return values

    plain = {}
    for rate in options.rates:
        steps, network = train_plain(loader, config.scale, options.minutes, rate, config.seed)
        plain[rate] = show(f"plain, rate {rate:g}", steps, measure(unseen, config.scale, network))
    steps, network = train_ours(Pictures(loader, loader, CPU), config, options.minutes)
    ours = show("ours", steps, measure(unseen, config.scale, network))
    best = max(plain, key=lambda rate: float(plain[rate].mean()))
    gain = ours - plain[best]
    print(f"ours above the best plain one (rate {best:g}): {spread(gain)} dB, better on {int((gain > 0).sum())} of "
          f"{len(gain)} photos")  # fmt: skip


if __name__ == "__main__":
    main()
