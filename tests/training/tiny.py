"""A run small enough for tests: a masked autoencoder of two layers on generated pictures. Also a script, so that tests
can kill it: ``python tests/training/tiny.py OUT STEPS [flags]``."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mmssl.config import to_dict
from mmssl.data.order import Order
from mmssl.errors import one_sentence_errors
from mmssl.nn import TransformerConfig
from mmssl.predictors.base import Batch
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.training.config import MaskedRunConfig
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, parse_flags

COUNT = 40


class Pictures:
    """Colour gradients in memory, in the arithmetic order of every loader."""

    def __init__(self, batch_size: int, seed: int, delay: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(7)
        corners = torch.rand(COUNT, 3, 2, 2, generator=generator)
        smooth = torch.nn.functional.interpolate(corners, (16, 16), mode="bilinear", align_corners=True)
        self.images = (smooth * 255).byte()
        self.order = Order(COUNT, batch_size, seed)
        self.delay = delay

    def batches(self, start_step: int) -> Iterator[Batch]:
        step = start_step
        while True:
            ids, epochs = (torch.from_numpy(part) for part in self.order.batch(step))
            time.sleep(self.delay)
            yield {"id": ids, "epoch": epochs, "image": self.images[ids]}
            step += 1

    def names(self, step: int) -> list[str]:
        return [f"picture-{index}" for index in self.order.batch(step)[0]]

    def frozen(self) -> Iterator[Batch]:
        ids = torch.arange(COUNT)
        yield {"id": ids, "epoch": torch.zeros_like(ids), "image": self.images}


@dataclass(frozen=True, kw_only=True)
class Config(MaskedRunConfig):
    """A tiny run for tests."""

    dropout: float = 0.1
    """Uses torch's generator, so that resuming has to restore it."""
    delay: float = 0.0
    """Seconds to wait for each batch."""


DEFAULTS = {"data": "generated", "steps": 12, "batch_size": 8, "learning_rate": 1e-3, "log_every": 2,
            "validate_every": 6, "checkpoint_every": 4, "workers": 0, "device": "cpu", "dropout": 0.1}  # fmt: skip


def tiny_predictor(config: Config) -> MaskedAutoencoder:
    torch.manual_seed(config.seed)
    shape = TransformerConfig(dim=16, depth=2, heads=2, mlp_dim=32, dropout=config.dropout)
    return MaskedAutoencoder(
        MaskedAutoencoderConfig(
            image_size=(16, 16), patch_size=(4, 4), encoder=shape, decoder=shape, mask_fraction=config.mask_fraction
        )
    )


def make_trainer(config: Config, predictor: MaskedAutoencoder | None = None) -> tuple[Trainer, Path | None]:
    predictor = predictor or tiny_predictor(config)
    run = RunFolder(config.out, config.keep_checkpoints)
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, {"train": COUNT})
    pictures = Pictures(config.micro_batch_size, config.seed, config.delay)
    return Trainer(predictor, config, run, pictures, pictures.frozen), checkpoint


def train(out: Path, **changes: object) -> Trainer:
    trainer, checkpoint = make_trainer(Config(**{"out": out, **DEFAULTS, **changes}))  # type: ignore[arg-type]
    trainer.fit(checkpoint)
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    with one_sentence_errors():
        flags = [word for name, value in DEFAULTS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        given = sys.argv[1:]
        resuming = "--resume" in given
        trainer, checkpoint = make_trainer(parse_flags(Config, given if resuming else flags + given))
        print("started", flush=True)
        if not trainer.fit(checkpoint):
            raise SystemExit(130)
