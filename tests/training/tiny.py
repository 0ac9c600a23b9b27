"""A run small enough for tests: a masked autoencoder of two layers on generated pictures. Also a script, so that tests
can kill it: ``python tests/training/tiny.py OUT STEPS [flags]``."""

import os
import signal
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
from mmssl.training.distributed import place, rank, restarts, share_of_batch, torchrun_ranks
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, choose_device, parse_flags

COUNT = 40


class Pictures:
    """Colour gradients in memory, in the arithmetic order of every loader."""

    def __init__(self, batch_size: int, seed: int, delay: float = 0.0, rank: int = 0, ranks: int = 1) -> None:
        generator = torch.Generator().manual_seed(7)
        corners = torch.rand(COUNT, 3, 2, 2, generator=generator)
        smooth = torch.nn.functional.interpolate(corners, (16, 16), mode="bilinear", align_corners=True)
        self.images = (smooth * 255).byte()
        self.order = Order(COUNT, batch_size, seed, rank, ranks)
        self.delay = delay
        self.device = torch.device("cpu")

    def batches(self, start_step: int) -> Iterator[Batch]:
        step = start_step
        while True:
            ids, epochs = (torch.from_numpy(part) for part in self.order.batch(step))
            time.sleep(self.delay)
            yield self._send({"id": ids, "epoch": epochs, "image": self.images[ids]})
            step += 1

    def names(self, step: int) -> list[str]:
        return [f"picture-{index}" for index in self.order.batch(step)[0]]

    def frozen(self) -> Iterator[Batch]:
        ids = torch.arange(COUNT)[self.order.rank :: self.order.world_size]
        yield self._send({"id": ids, "epoch": torch.zeros_like(ids), "image": self.images[ids]})

    def _send(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


@dataclass(frozen=True, kw_only=True)
class Config(MaskedRunConfig):
    """A tiny run for tests."""

    dropout: float = 0.1
    """Uses torch's generator, so that resuming has to restore it."""
    delay: float = 0.0
    """Seconds to wait for each batch."""
    kill_at: int = 0
    """Step after which the second of several processes is killed, once."""


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
    predictor = predictor or tiny_predictor(config).to(choose_device(config.device))
    run = RunFolder(config.out, config.keep_checkpoints)
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, {"train": COUNT})
    share = share_of_batch(config.batch_size, config.accumulation)
    pictures = Pictures(share, config.seed, config.delay, *place())
    pictures.device = predictor.device
    return Trainer(predictor, config, run, pictures, pictures.frozen), checkpoint


def train(out: Path, **changes: object) -> Trainer:
    trainer, checkpoint = make_trainer(Config(**{"out": out, **DEFAULTS, **changes}))  # type: ignore[arg-type]
    trainer.fit(checkpoint)
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    with one_sentence_errors(), torchrun_ranks():
        flags = [word for name, value in DEFAULTS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        given = sys.argv[1:]
        resuming = "--resume" in given
        trainer, checkpoint = make_trainer(parse_flags(Config, given if resuming else flags + given))
        if trainer.config.kill_at and rank() == 1 and not restarts():
            step = trainer._optimizer_step

            def step_then_die(*arguments: object) -> None:
                step(*arguments)  # type: ignore[arg-type]
                if trainer.step == trainer.config.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            trainer._optimizer_step = step_then_die
        print("started", flush=True)
        if not trainer.fit(checkpoint):
            raise SystemExit(130)
