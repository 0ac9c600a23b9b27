"""wav2vec 2.0 in a few lines, with everything that lets it collapse: codes that are learned, and negatives that are
excluded where they have the code of the positive. Logs what audio predictors log."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.data.order import Order
from mmssl.masking import MaskPlan, NoiseKey, hidden_count, random_mask
from mmssl.nn import Transformer, TransformerConfig
from mmssl.predictors.base import Batch, Predictor, View

COUNT, FRAMES, SAMPLES, SOUNDS = 64, 24, 16, 8


class Recordings:
    """Melodies: each repeats its own three of eight sounds, in noise. What is hidden can be told from what is not."""

    def __init__(self, batch_size: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(7)
        sounds = torch.randn(SOUNDS, SAMPLES, generator=draw)
        melodies = torch.stack([torch.randperm(SOUNDS, generator=draw)[:3] for _ in range(COUNT)])
        clean = sounds[melodies.repeat(1, FRAMES // 3)]
        self.audio = (clean + 0.3 * torch.randn(clean.shape, generator=draw)).flatten(1)
        self.order = Order(COUNT, batch_size, seed)

    def batches(self, start_step: int) -> Iterator[Batch]:
        step = start_step
        while True:
            ids, epochs = (torch.from_numpy(part) for part in self.order.batch(step))
            yield self._batch(ids, epochs)
            step += 1

    def names(self, step: int) -> list[str]:
        return [f"recording-{index}" for index in self.order.batch(step)[0]]

    def frozen(self) -> Iterator[Batch]:
        ids = torch.arange(COUNT)
        yield self._batch(ids, torch.zeros_like(ids))

    def _batch(self, ids: Tensor, epochs: Tensor) -> Batch:
        length = torch.full_like(ids, self.audio.shape[1])
        return {"id": ids, "epoch": epochs, "audio": self.audio[ids], "length": length}


@dataclass(frozen=True)
class ContrastiveConfig:
    """What can be done wrong."""

    codes: int = 32
    """In one group, so that collapse means a perplexity of 1."""
    diversity: float = 0.1
    """Weight of what keeps codes in use; 0 lets them collapse."""
    contrast: float = 6.0
    """Scale of the code logits at the start."""
    noise: float = 0.3
    """Scale of the Gumbel noise; as large as the logits, it hides the sounds, and nothing can be predicted."""
    favoured: float = 0.0
    """Added at the start to the logit of the first code: enough of it, and no other is ever drawn."""
    leak: bool = False
    """Hidden frames are not hidden."""
    dead: bool = False
    """The context ends in a ReLU that never opens, as after a step that was much too large."""


class TinyContrastive(Predictor):
    name = "tiny_contrastive"
    config: ContrastiveConfig

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config, dim = config, 32
        self.front = nn.Linear(SAMPLES, dim)
        self.mask_token = nn.Parameter(torch.randn(dim))
        self.position = nn.Parameter(0.1 * torch.randn(FRAMES, dim))
        self.trunk = Transformer(TransformerConfig(dim=dim, depth=1, heads=2, mlp_dim=64))
        self.out = nn.Linear(dim, dim)
        self.code_logits = nn.Linear(dim, config.codes)
        self.codebook = nn.Parameter(torch.randn(config.codes, dim))
        with torch.no_grad():
            self.code_logits.weight *= config.contrast
            self.code_logits.bias[0] += config.favoured
            if config.dead:
                self.out.bias.fill_(-100.0)

    def perturb(self, batch: Batch) -> View:
        hidden = random_mask(NoiseKey.of(batch, self.mask_seed), FRAMES, 0.5)
        plan = MaskPlan.from_hidden(hidden, hidden_count=hidden_count(FRAMES, 0.5))
        return {"plan": plan, "frames": F.gelu(self.front(batch["audio"].unflatten(1, (FRAMES, SAMPLES))))}

    def encode(self, view: View) -> Tensor:
        frames = view["frames"]
        if not self.config.leak:
            frames = torch.where(view["plan"].hidden[..., None], self.mask_token, frames)
        return self.trunk(frames + self.position)

    def predict(self, latent: Tensor, view: View) -> Tensor:
        out = self.out(view["plan"].take_hidden(latent))
        return F.relu(out) if self.config.dead else out

    def target(self, batch: Batch, view: View) -> dict[str, Tensor]:  # noqa: ARG002
        logits = self.code_logits(view["plan"].take_hidden(view["frames"]))
        noise = -torch.empty_like(logits).exponential_().log() if self.training else torch.zeros_like(logits)
        soft = (logits + self.config.noise * noise).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), self.config.codes).float()
        chosen = hard + soft - soft.detach()
        return {"vector": chosen @ self.codebook, "code": soft.argmax(-1), "soft": logits.softmax(-1)}

    def score(self, prediction: Tensor, target: dict[str, Tensor], view: View) -> dict[str, Tensor]:  # noqa: ARG002
        code, (batch, hidden) = target["code"], target["code"].shape
        similarity = F.normalize(prediction, dim=-1) @ F.normalize(target["vector"], dim=-1).mT / 0.1
        other = ~torch.eye(hidden, dtype=torch.bool)
        same = (code[:, :, None] == code[:, None]) & other
        logits = similarity.masked_fill(same, -math.inf).flatten(0, 1)
        positive = torch.arange(hidden).repeat(batch)
        contrastive = F.cross_entropy(logits, positive, reduction="sum")
        count = torch.tensor(float(batch * hidden))
        soft = _perplexity(target["soft"].flatten(0, 1).mean(0))
        used = F.one_hot(code.flatten(), self.config.codes).float().mean(0)
        diversity = 1 - soft / self.config.codes
        return {
            "loss": contrastive + self.config.diversity * diversity * count,
            "reference": math.log(hidden) * count,
            "count": count,
            "contrastive_loss": contrastive.detach(),
            "diversity_loss": diversity.detach() * count,
            "accuracy": (logits.argmax(-1) == positive).float().sum(),
            "excluded_negatives": same.sum() / (hidden - 1),
            "code_perplexity": _perplexity(used) * count,
            "code_perplexity_soft": soft.detach() * count,
        }

    def encode_clean(self, batch: Batch) -> dict[str, Tensor]:
        frames = F.gelu(self.front(batch["audio"].unflatten(1, (FRAMES, SAMPLES))))
        return {"mean": self.trunk(frames + self.position).mean(1)}

    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError("nothing to look at")


def _perplexity(share: Tensor) -> Tensor:
    return torch.exp(-torch.special.xlogy(share, share).sum())
