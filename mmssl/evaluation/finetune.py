"""Train the encoder on with a few labels: what pretraining is worth where it starts, beside starting from nothing."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.errors import UserError
from mmssl.evaluation.features import LabelledSet, longest_first, seeded, take, to_device
from mmssl.predictors.base import Batch, Predictor
from mmssl.training.optimizer import is_decayed, learning_rate_at


@dataclass(frozen=True)
class FinetuneConfig:
    """Fixed before any result, the same at every number of labels; nothing is chosen on the test split."""

    steps: int = 200
    """Optimizer steps, whatever the number of labels."""
    batch_size: int = 64
    """Samples a step (all of them where there are fewer)."""
    learning_rate: float = 1e-3
    """Peak, of the head; the layers below get less. Of 2.5e-4 ... 2e-3 the best on held-out training photos of CIFAR-10
    for training from scratch (at 1,000 labels; tied with 5e-4), and within a point of the best for a pretrained one
    there; at 100 labels a pretrained one did 2.5 points better with 2.5e-4 (one seed)."""
    layer_decay: float = 0.75
    """Factor from each layer to the one below it (Clark et al. 2020; He et al. 2022, table 9)."""
    weight_decay: float = 0.05
    """Of matrices only (He et al. 2022, table 9)."""
    warmup_share: float = 0.1
    """Part of the steps with a rising learning rate."""
    clip: float = 1.0
    """Largest gradient norm."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise UserError(
                f"fine-tuning needs at least 1 step and 1 sample a step, got {self.steps}, {self.batch_size}"
            )


class Classifier(nn.Module):
    """An encoder's features, layer norm, and a linear head (He et al. 2022, appendix A.1, with global pooling)."""

    def __init__(self, predictor: Predictor, feature: str, dim: int, classes: int) -> None:
        super().__init__()
        self.predictor = predictor
        self.feature = feature
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        nn.init.normal_(self.head.weight, std=1e-2)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Float[Tensor, "batch label"]:
        """Logits of whole, unperturbed samples."""
        return self.head(self.norm(self.predictor.encode_clean(batch)[self.feature]))


def finetune(
    predictor: Predictor,
    batch: Batch,
    labels: Int[Tensor, " sample"],
    classes: int,
    *,
    seed: int,
    feature: str = "mean",
    config: FinetuneConfig | None = None,
) -> Classifier:
    """Train a copy of ``predictor`` with a new head on the labelled samples of ``batch``; in eval mode afterwards.

    There is no augmentation, because what leaves a label unchanged depends on the label (mirroring keeps the shape but
    moves its place). ``seed`` decides head, order and dropout. The predictor is left as it was.
    """
    config = config or FinetuneConfig()
    batch, labels = to_device(batch, predictor.device), labels.to(predictor.device)
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed, predictor.device), torch.enable_grad():
        copied = copy.deepcopy(predictor).train()
        with torch.no_grad():
            first, _ = longest_first(take(batch, torch.zeros(1, dtype=torch.int64)))
            dim = copied.encode_clean(first)[feature].shape[1]
        model = Classifier(copied, feature, dim, classes).to(predictor.device)
        groups = layer_groups(model, config)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))
        parameters = [parameter for group in groups for parameter in group["params"]]
        for step in range(config.steps):
            rate = learning_rate_at(step, config.learning_rate, round(config.warmup_share * config.steps), config.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            chosen = _draw(len(labels), config.batch_size, generator).to(labels.device)
            part, order = longest_first(take(batch, chosen))
            loss = F.cross_entropy(model(part), labels[chosen][order])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
    return model.eval()


def _draw(count: int, size: int, generator: torch.Generator) -> Int[Tensor, " chosen"]:
    """Samples of a step: without repetition, all of them where there are fewer than ``size``."""
    return torch.randperm(count, generator=generator)[:size]


def layer_groups(model: Classifier, config: FinetuneConfig) -> list[dict]:
    """Parameter groups for AdamW; ``scale`` is the factor on the learning rate: layer decay by depth, 1 for the head.

    Depths come from ``predictor.parameter_depths()``: those of the encoder alone, 0 at the input. Parameters that it
    leaves out (a decoder) are not trained. A predictor without this method is trained whole, at one rate.
    """
    find_depths: Callable[[], Mapping[str, int]] | None = getattr(model.predictor, "parameter_depths", None)
    depths = find_depths() if find_depths is not None else None
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in model.named_parameters():
        scale = 1.0
        if depths is not None and name.startswith("predictor."):
            depth = depths.get(name.removeprefix("predictor."))
            if depth is None:
                continue
            scale = config.layer_decay ** (max(depths.values()) - depth)
        if not parameter.requires_grad:
            continue
        decayed = is_decayed(name, parameter)
        group = groups.setdefault(
            (scale, decayed),
            {"params": [], "names": [], "scale": scale, "weight_decay": config.weight_decay if decayed else 0.0},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


@torch.no_grad()
def accuracy_of(model: Classifier, samples: LabelledSet) -> float:
    """Share of samples whose most likely class is the right one."""
    correct = total = 0
    for batch in samples.batches():
        labels = samples.labels(batch)
        predicted = model(to_device(batch, model.predictor.device)).argmax(1).cpu()
        correct += int((predicted == labels).sum())
        total += len(labels)
    return correct / total
