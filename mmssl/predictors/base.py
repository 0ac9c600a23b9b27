"""The five steps that every pretext task goes through, and what comes out of them."""

import errno
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmssl.errors import FULL, UserError

Batch = Mapping[str, Tensor]
"""Tensors of a batch by name. ``id`` and ``epoch``, int64 ``[batch]``, are always there."""

View = Mapping[str, Any]
"""What is left of a batch after hiding a part, and the plan that says which."""

Outcome = dict[str, Float[Tensor, ""]]
"""``loss``, ``reference``, ``skill``, ``count``, and further ``reference_NAME`` with their ``skill_NAME``."""

VALIDATION_SEED = 0
"""Masks of evaluation are drawn with this seed whatever the run's seed, so that losses compare across runs."""


class Predictor(nn.Module, ABC):
    """A pretext task: perturb a batch, encode what is left, predict the hidden part back.

    A subclass fills in the five steps and :meth:`encode_clean`; the base composes them. ``reference`` is the loss
    of a predictor that knows nothing about this sample and ``skill = 1 - loss / reference``: 0 is a trivial guess,
    1 is perfect.
    """

    name: ClassVar[str]
    """How config.json calls the class."""

    seed: int = 0
    """Seed of training masks; set by the trainer."""

    config: Any

    @abstractmethod
    def perturb(self, batch: Batch) -> View:
        """Hide a part."""

    @abstractmethod
    def encode(self, view: View) -> Tensor:
        """Represent what is left."""

    @abstractmethod
    def predict(self, latent: Tensor, view: View) -> Tensor:
        """Predict the hidden part from the representation."""

    @abstractmethod
    def target(self, batch: Batch, view: View) -> Tensor:
        """What was hidden."""

    @abstractmethod
    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Float[Tensor, ""]]:
        """Sums over what was predicted, in fp32: ``loss``, ``reference``, ``count``, optionally ``reference_NAME``."""

    @abstractmethod
    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of the whole, unperturbed sample by name (``mean``, ``cls``): for probes and export."""

    def encode_layers(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """:meth:`encode_clean` and, beside it, ``layer 1``, ``layer 2`` ...: means after each block but the last.

        For probes by depth: the last layer serves the pretext task, and an earlier one often knows more of a label.
        A predictor without layers has nothing to add.
        """
        return self.encode_clean(batch)

    def take_observed(self, other: Any) -> None:
        """Take over what ``other``, of the same class and config, observed of its data before training.

        For an untrained twin to compare with: statistics of the input are no knowledge that was learned.
        """

    @property
    def reveal_note(self) -> str:
        """What a picture of predictions must say about anything it borrowed."""
        return ""

    @abstractmethod
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """For the eye: ``original``, ``perturbed``, ``predicted``, ``composite``, ``hidden``."""

    def forward(self, batch: Batch) -> Outcome:
        """The five steps. ``loss * count`` is a sum, so outcomes of several batches can be joined exactly."""
        view = self.perturb(batch)
        latent = self.encode(view)
        prediction = self.predict(latent, view)
        target = self.target(batch, view)
        return outcome_of(self.score(prediction, target, view))

    @property
    def mask_seed(self) -> int:
        """Seed of the masks drawn now: the run's in training, a fixed one in evaluation."""
        return self.seed if self.training else VALIDATION_SEED

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write ``model.safetensors`` and ``config.json``, enough to load without a trainer and without pickle.

        ``weights``: those to write, where this process does not hold all of its own.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.state_dict() if weights is None else weights
        write_safetensors(folder / "model.safetensors", weights, {"predictor": self.name})
        config = {"predictor": self.name, **asdict(self.config)}
        staged = folder / ".config.json.new"
        staged.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(staged, folder / "config.json")

    def load_weights(self, weights: Mapping[str, Tensor], file: Path) -> None:
        """Load what ``file`` holds, strictly. Raises UserError where it is of another model, or not finite."""
        own = self.state_dict()
        missing = sorted(own.keys() - weights.keys())
        extra = sorted(weights.keys() - own.keys())
        shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
        if missing or extra or shapes:
            first = (missing + extra + sorted(shapes))[0]
            raise UserError(
                f"{file} holds another model than this config describes (first difference: {first}): "
                "use the config.json that was saved with it"
            )
        for name, tensor in weights.items():
            if tensor.dtype.is_floating_point and not tensor.isfinite().all():
                raise UserError(f"{file} has numbers in {name} that are not finite: use an earlier copy")
        self.load_state_dict(weights)


def write_safetensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors so that readers see the old file or the new one, whole. Raises OSError where the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    staged = file.with_name(f".{file.name}.new")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, staged, metadata={"format": "pt", **(metadata or {})})
        with staged.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(staged, file)
    except SafetensorError as error:  # it hides the error number of a full disk in its text
        number = next((n for n in FULL if os.strerror(n) in str(error)), errno.EIO)
        raise OSError(number, os.strerror(number), str(file)) from None
    finally:
        staged.unlink(missing_ok=True)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises UserError naming the file when it is missing, cut or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"{file} does not exist: is {file.parent} a complete folder of this kind?")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is cut or damaged ({error}): use an earlier copy") from None


def outcome_of(sums: Mapping[str, Float[Tensor, ""]]) -> Outcome:
    """Means and skills from the sums of :meth:`Predictor.score`, or from such sums added over batches.

    ``skill_NAME`` compares ``loss_NAME`` with ``reference_NAME``, or the loss itself where none has that name.
    """
    count = sums["count"]
    outcome = {name: value / count for name, value in sums.items() if name != "count"}
    outcome["count"] = count
    for name in list(outcome):
        if name.startswith("reference"):
            part = name.removeprefix("reference")
            loss = outcome.get("loss" + part, outcome["loss"])
            outcome["skill" + part] = 1 - loss.detach() / outcome[name]
    return outcome


def sums_of(outcome: Outcome) -> dict[str, Float[Tensor, ""]]:
    """Inverse of :func:`outcome_of`, detached: sums that can be added over batches and ranks."""
    count = outcome["count"].detach()
    sums = {name: value.detach() * count for name, value in outcome.items() if not name.startswith("skill")}
    sums["count"] = count
    return sums
