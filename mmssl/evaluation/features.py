"""Frozen features of labelled samples: from an encoder, from raw input, from an encoder that learned nothing."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from mmssl.errors import UserError
from mmssl.predictors.base import Batch, Predictor

Encode = Callable[[Batch], Mapping[str, Float[Tensor, "batch _"]]]
"""Features of a batch by name."""

Memory = MutableMapping[Hashable, tuple[dict[str, Tensor], Tensor]]
"""What passes over the data gave, by :attr:`LabelledSet.same`: for several questions to the same encoders."""

P = TypeVar("P", bound=Predictor)

RAW_SIDE = 32
"""Raw pictures are averaged down until both sides are at most this many pixels: 3,072 numbers in colour."""


@dataclass(frozen=True)
class LabelledSet:
    """Samples that can be gone through any number of times, and the class of each.

    For pictures: ``LabelledSet(lambda: loader.frozen(256), *source.labels("shape"))``.
    """

    batches: Callable[[], Iterable[Batch]]
    """Starts one pass: every sample once, always in the same way (no augmentation)."""
    targets: Int[Tensor, " sample"] | Int[np.ndarray, " sample"]
    """Class number by sample id."""
    names: Sequence[str]
    """Class names by class number."""
    padding: Mapping[str, int] = field(default_factory=dict)
    """Tensors whose second dimension is as long as the longest sample of a batch, and what fills it behind others."""
    groups: Int[Tensor, " sample"] | Int[np.ndarray, " sample"] | None = None
    """Samples with the same number resemble each other for reasons beside the label, as those of one speaker do."""
    same: Hashable = None
    """Equal for sets whose passes give the same batches, so that features of one are those of the other; None: unknown.
    """

    def index(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Where the samples of a batch are in ``targets`` and ``groups``, on the CPU."""
        return batch["id"].cpu()

    def labels(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Class numbers of a batch, on the CPU."""
        return torch.as_tensor(self.targets)[self.index(batch)]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch elsewhere."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def frozen(predictor: Predictor, *, layers: bool = False) -> Encode:
    """``encode_clean``, or ``encode_layers``, of a predictor in eval mode and without gradients; its mode is put back
    after each batch."""

    @torch.no_grad()
    def encode(batch: Batch) -> Mapping[str, Tensor]:
        training = predictor.training
        predictor.eval()
        try:
            encoder = predictor.encode_layers if layers else predictor.encode_clean
            return encoder(to_device(batch, predictor.device))
        finally:
            predictor.train(training)

    return encode


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers on the CPU and ``device``; afterwards they go on as if nothing had happened."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def freshly_initialised(predictor: P, seed: int) -> P:
    """A predictor of the same class and config with new random weights: what the architecture alone is worth.

    ``seed`` decides the weights; what was observed of the data before training stays. The global random state is left
    as it was.
    """
    with seeded(seed, predictor.device):
        fresh = type(predictor)(predictor.config).to(predictor.device).eval()
    fresh.take_observed(predictor)
    return fresh


def raw_features(batch: Batch) -> Mapping[str, Float[Tensor, "batch _"]]:
    """The input itself as a feature vector: the baseline that a representation has to beat."""
    for name, flatten in RAW_INPUTS.items():
        if name in batch:
            return {"flat": flatten(batch[name])}
    raise UserError(f"no raw features are known for a batch of {', '.join(batch)}: known are {', '.join(RAW_INPUTS)}")


def raw_pixels(image: UInt8[Tensor, "batch channel height width"]) -> Float[Tensor, "batch pixel"]:
    """Pixels on the scale -1..1, averaged down to at most 32 x 32 (see :data:`RAW_SIDE`), flattened."""
    pixels = image.float() / 127.5 - 1
    height, width = image.shape[-2:]
    smaller = (min(height, RAW_SIDE), min(width, RAW_SIDE))
    if smaller != (height, width):
        pixels = F.interpolate(pixels, smaller, mode="bilinear", antialias=True)
    return pixels.flatten(1)


RAW_INPUTS = {"image": raw_pixels}
"""How each kind of input becomes a vector, by its name in the batch."""


def side_by_side(encoders: Mapping[str, Encode]) -> Encode:
    """Several encoders as one, so that a pass over the data feeds all; features are named ``ENCODER.FEATURE``."""

    def encode(batch: Batch) -> Mapping[str, Tensor]:
        features = {}
        for encoder, function in encoders.items():
            for name, values in function(batch).items():
                features[f"{encoder}.{name}"] = values
        return features

    return encode


def extract(
    encode: Encode, samples: LabelledSet
) -> tuple[dict[str, Float[Tensor, "sample _"]], Int[Tensor, " sample"]]:
    """Features by name and class numbers of a whole set, as :func:`features_of` gives them."""
    features, index = features_of(encode, samples)
    return features, torch.as_tensor(samples.targets)[index]


@torch.no_grad()
def features_of(
    encode: Encode, samples: LabelledSet, memory: Memory | None = None
) -> tuple[dict[str, Float[Tensor, "sample _"]], Int[Tensor, " sample"]]:
    """Features by name of a whole set, fp32 on the CPU in the order of the batches; and where each sample is in it.

    What is in ``memory`` is not computed again; it is for one ``encode`` only.

    Raises UserError where the set is empty or a feature is not a finite number.
    """
    if memory is not None and samples.same in memory:
        return memory[samples.same]
    parts: dict[str, list[Tensor]] = {}
    places = []
    for batch in samples.batches():
        places.append(samples.index(batch))
        for name, values in encode(batch).items():
            # a feature may be a view, such as one token of all: a copy lets go of what it is a view of
            parts.setdefault(name, []).append(values.to("cpu", torch.float32, copy=True))
    if not places:
        raise UserError("there are no labelled samples to take features of: check the data and its split")
    features = {name: torch.cat(values) for name, values in parts.items()}
    for name, values in features.items():
        if not values.isfinite().all():
            raise UserError(f"features '{name}' are not finite: the weights are damaged, use an earlier checkpoint")
    found = features, torch.cat(places)
    if memory is not None and samples.same is not None:
        memory[samples.same] = found
    return found


def take(batch: Batch, chosen: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
    """Some samples of a batch, in the order of ``chosen``."""
    return {name: values[chosen.to(values.device)] for name, values in batch.items()}


def longest_first(batch: Batch) -> tuple[dict[str, Tensor], Int[Tensor, " sample"]]:
    """The batch as loaders hand it out, and the order that its samples are in now.

    Samples with a ``length`` come longest first and are cut to the longest; others stay as they are.
    """
    if "length" not in batch:
        return dict(batch), torch.arange(len(batch["id"]), device=batch["id"].device)
    order = batch["length"].argsort(descending=True, stable=True)
    longest = int(batch["length"].max())
    cut = {name: values[:, :longest] if values.ndim > 1 else values for name, values in take(batch, order).items()}
    return cut, order


def gather(samples: LabelledSet, positions: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
    """The batch of the samples at ``positions`` in the order of the batches, in the order of ``positions``.

    Samples of different lengths are padded to the longest of the batches that they come from.
    """
    sorted_positions, back = positions.unique(return_inverse=True)
    parts: dict[str, list[Tensor]] = {}
    start = 0
    for batch in samples.batches():
        stop = start + len(batch["id"])
        inside = sorted_positions[(sorted_positions >= start) & (sorted_positions < stop)] - start
        if len(inside):
            for name, values in take(batch, inside).items():
                parts.setdefault(name, []).append(values)
        start = stop
    joined = {name: torch.cat(_padded(values, samples.padding.get(name))) for name, values in parts.items()}
    return take(joined, back)


def _padded(parts: list[Tensor], fill: int | None) -> list[Tensor]:
    """Filled up to the longest in the second dimension; as they are where nothing is said to fill with."""
    if fill is None:
        return parts
    longest = max(part.shape[1] for part in parts)
    return [F.pad(part, (0, longest - part.shape[1]), value=fill) for part in parts]
