"""What the probes are tried on: a predictor of two layers, and pictures of three classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmssl.evaluation.features import LabelledSet
from mmssl.predictors.base import Batch, Predictor, View


@dataclass(frozen=True)
class StubConfig:
    """Shape of the stub."""

    pixels: int
    dim: int = 24


class StubPredictor(Predictor):
    """Two layers on flattened pixels; its decoder is not part of the encoder."""

    name = "stub"

    def __init__(self, config: StubConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.pixels, config.dim)
        self.block = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(0.5)
        self.decoder = nn.Linear(config.dim, config.pixels)

    def parameter_depths(self) -> dict[str, int]:
        depths = {"embedding": 0, "block": 1}
        return {name: depths[name.split(".")[0]] for name, _ in self.named_parameters() if "decoder" not in name}

    def encode_clean(self, batch: Batch) -> dict[str, Tensor]:
        hidden = torch.tanh(self.embedding(batch["image"].flatten(1).float() / 127.5 - 1))
        hidden = self.dropout(hidden)
        return {"mean": hidden + self.block(hidden), "cls": hidden}

    def encode_layers(self, batch: Batch) -> dict[str, Tensor]:
        """Layer 1 is the picture itself, in which the classes can be told; layer 2 knows nothing of it."""
        pixels = batch["image"].flatten(1).float()
        return self.encode_clean(batch) | {"layer 1": pixels, "layer 2": torch.ones_like(pixels)}

    def perturb(self, batch: Batch) -> View:
        raise NotImplementedError

    def encode(self, view: View) -> Tensor:
        raise NotImplementedError

    def predict(self, latent: Tensor, view: View) -> Tensor:
        raise NotImplementedError

    def target(self, batch: Batch, view: View) -> Tensor:
        raise NotImplementedError

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Tensor]:
        raise NotImplementedError

    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


def pictures(count: int, seed: int, side: int = 6, noise: float = 60.0) -> LabelledSet:
    """Three classes of faint patterns in noise, as batches of 50 whose ids are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    patterns = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(77)) * 30 + 128
    images = (patterns[labels] + noise * torch.randn(count, 3, side, side, generator=generator)).clamp(0, 255).byte()
    ids = torch.randperm(count, generator=generator)
    targets = torch.empty(count, dtype=torch.int64)
    targets[ids] = labels

    def batches() -> Iterator[dict[str, Tensor]]:
        for start in range(0, count, 50):
            part = slice(start, start + 50)
            yield {"id": ids[part], "epoch": torch.zeros_like(ids[part]), "image": images[part]}

    return LabelledSet(batches, targets.numpy(), ("round", "flat", "sharp"))


def stub(seed: int = 0, pixels: int = 108) -> StubPredictor:
    torch.manual_seed(seed)
    return StubPredictor(StubConfig(pixels))
