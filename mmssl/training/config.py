"""Flags that every recipe has. A recipe's own config inherits from this and adds what is particular to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmssl.errors import UserError

SPEED_ONLY = frozenset(
    {"out", "resume", "workers", "device", "compile", "log_every", "validate_every", "checkpoint_every",
     "checkpoint_minutes", "keep_checkpoints", "cache", "stop_when_unhealthy", "parallel"}
)  # fmt: skip
"""Settings that may differ between a run and its resumption: they change how it runs or what it writes, not what is
learned. Everything else is part of the objective."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is. ``None`` means: chosen from the preset and printed at the start."""

    data: str
    """Folder, list or tar file with the data, or a set of shards by its folder or URL; see `mmssl inspect DATA`."""
    out: Path
    """Folder of the run; made if missing."""
    preset: str = "nano"
    """Size of the model."""
    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 128
    """Samples an optimizer step, over all micro-batches and processes."""
    learning_rate: float | None = None
    """Peak learning rate, as it is used (no hidden scaling)."""
    seed: int = 0
    """Seed of initialisation, order, crops and masks."""
    workers: int = 2
    """Processes that read data."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint."""
    init: str | None = None
    """Start from weights in this folder: a run, or a timm or transformers checkpoint."""
    warmup_steps: int | None = None
    """Steps of linear warm-up; default 5 % of the steps."""
    weight_decay: float = 0.05
    """AdamW's weight decay; not applied to norms, biases, tokens and positions."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas (He et al. 2022, table 8)."""
    clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    accumulation: int = 1
    """Micro-batches an optimizer step: less memory, same result."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 on CUDA and fp32 elsewhere."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How processes started by torchrun share the work: ddp holds the whole model in each, fsdp cuts weights, gradients
    and optimizer state among them."""
    compile: bool = False
    """torch.compile the predictor: worth its start-up on long GPU runs of base size and above."""
    log_every: int = 50
    """Steps between journal lines."""
    validate_every: int = 500
    """Steps between validations on frozen crops and masks."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    checkpoint_minutes: float = 10.0
    """Save a checkpoint at least this often, in minutes."""
    keep_checkpoints: int = 2
    """Checkpoints kept."""
    stop_when_unhealthy: bool = False
    """Save and stop when something goes wrong that more training cannot mend; by default it is only said."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "validate_every", "checkpoint_every",
                     "keep_checkpoints"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be split into {self.accumulation} equal micro-batches: "
                "choose --accumulation that divides it"
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"--learning-rate must be positive, got {self.learning_rate}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UserError(f"--warmup-steps cannot be negative, got {self.warmup_steps}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"--betas must lie between 0 and 1, as in 0.9 0.95, got {self.betas[0]} {self.betas[1]}")
        if self.workers < 0 or self.clip < 0 or self.weight_decay < 0 or self.checkpoint_minutes <= 0:
            raise UserError("--workers, --clip and --weight-decay cannot be negative, --checkpoint-minutes not 0")

    @property
    def micro_batch_size(self) -> int:
        """Samples that go through the network at once, in all processes together."""
        return self.batch_size // self.accumulation

    @property
    def warmup(self) -> int:
        """Steps of warm-up, resolved."""
        return self.warmup_steps if self.warmup_steps is not None else max(1, round(0.05 * self.steps))


@dataclass(frozen=True, kw_only=True)
class MaskedRunConfig(RunConfig):
    """A run that hides a share of what it is given; name it last among the bases."""

    mask_fraction: float = 0.75
    """Share of positions that is hidden."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_fraction < 1:
            raise UserError(f"--mask-fraction must lie between 0 and 1, got {self.mask_fraction}: 0.75 hides 75 %")
