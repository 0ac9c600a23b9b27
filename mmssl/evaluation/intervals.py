"""Stretches of recordings with a label, such as words with their times: features of each, from the whole recording.

An encoder hears the recording, not the stretch alone: what surrounds a word is part of what it knows of it. Features
are means over the frames whose middle lies in the stretch, or the nearest frame where none does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.evaluation.features import Encode, LabelledSet, to_device
from mmssl.predictors.audio import AudioPredictor
from mmssl.predictors.base import Batch


class Stretches(NamedTuple):
    """Frames ``first`` up to ``stop`` of the rows of a batch; at least one each."""

    row: Int[Tensor, " stretch"]
    first: Int[Tensor, " stretch"]
    stop: Int[Tensor, " stretch"]

    def parts(self, count: int) -> "Stretches":
        """Each cut into ``count`` equal parts, one after the other; frames are used twice where there are fewer."""
        number = torch.arange(count, device=self.row.device)
        long = (self.stop - self.first)[:, None]
        first = self.first[:, None] + (long * number // count).clamp_max(long - 1)
        stop = torch.maximum(self.first[:, None] + long * (number + 1) // count, first + 1)
        return Stretches(self.row.repeat_interleave(count), first.flatten(), stop.flatten())


def frames_between(
    row: Int[Tensor, " stretch"],
    samples: Int[Tensor, "stretch 2"],
    frames: Int[Tensor, " batch"],
    field: int,
    step: int,
) -> Stretches:
    """The frames whose middle lies between two samples of a row.

    Args:
        row: place of the recording in its batch.
        samples: first sample, and the one behind the last.
        frames: how many frames each recording has; one at least.
        field, step: samples that a frame is computed from, and samples from one to the next.
    """
    most = frames[row]
    first, stop = ((2 * samples - field + 2 * step - 1) // (2 * step)).unbind(1)  # the next middle, rounded up
    nearest = (samples.sum(1) - field + step) // (2 * step)
    empty = torch.minimum(stop, most) <= first.clamp_min(0)
    first = torch.where(empty, nearest, first).clamp_min(0).minimum(most - 1)
    return Stretches(row, first, torch.where(empty, first + 1, stop).minimum(most))


def moments(
    x: Float[Tensor, "batch frame dim"], stretches: Stretches
) -> tuple[Float[Tensor, "stretch dim"], Float[Tensor, "stretch dim"]]:
    """Mean and standard deviation over the frames of each stretch, in single precision."""
    row, first, stop = stretches
    counts = stop - first
    owner = torch.arange(len(row), device=x.device).repeat_interleave(counts)
    place = torch.arange(len(owner), device=x.device) - (counts.cumsum(0) - counts)[owner] + first[owner]
    values = x.flatten(0, 1).index_select(0, row[owner] * x.shape[1] + place).float()
    nothing = values.new_zeros(len(row), values.shape[1])
    mean = nothing.index_add(0, owner, values) / counts[:, None]
    variance = nothing.index_add(0, owner, (values - mean[owner]).square()) / counts[:, None]
    return mean, variance.sqrt()


@dataclass(frozen=True)
class IntervalSet(LabelledSet):
    """Batches of recordings with, beside them, the stretches in each: ``item``, ``row``, and ``between`` in samples.

    ``targets`` has the class of each item.
    """

    def index(self, batch: Batch) -> Int[Tensor, " batch"]:
        """Numbers of the stretches of a batch, on the CPU."""
        return batch["item"].cpu()


def with_intervals(
    batches: Callable[[], Iterator[Batch]], recording: Int[Tensor, " item"], samples: Int[Tensor, "item 2"]
) -> Callable[[], Iterator[Batch]]:
    """Batches with the stretches of their recordings; those without one are left out.

    ``recording`` is the ``id`` in the batches that each item belongs to.
    """

    def passes() -> Iterator[Batch]:
        for batch in batches():
            match = batch["id"][:, None] == recording.to(batch["id"].device)
            row, item = match.nonzero().unbind(1)
            if len(row):
                between = samples.to(row.device)[item].minimum(batch["length"][row, None])
                yield {**batch, "item": item, "row": row, "between": between}

    return passes


def encode_intervals(predictor: AudioPredictor, *, layers: bool = False) -> Encode:
    """``mean`` of each stretch and ``quarters``, mean and standard deviation over each quarter of it; with ``layers``
    also ``layer 1``, ``layer 2`` ..., quarters after earlier blocks."""
    field, step = predictor.encoder.front_end.field_and_step

    @torch.no_grad()
    def encode(batch: Batch) -> Mapping[str, Tensor]:
        batch = to_device(batch, predictor.device)
        training = predictor.training
        predictor.eval()
        try:
            states, frames = predictor.encoder.layers(batch["audio"], batch["length"])
        finally:
            predictor.train(training)
        stretches = frames_between(batch["row"], batch["between"], frames.lengths, field, step)
        *earlier, last = (frames.put_back(state) for state in (states if layers else states[-1:]))
        features = {"mean": moments(last, stretches)[0], "quarters": _quarters(last, stretches)}
        return features | {f"layer {number}": _quarters(state, stretches) for number, state in enumerate(earlier, 1)}

    return encode


def _quarters(x: Float[Tensor, "batch frame dim"], stretches: Stretches) -> Float[Tensor, "stretch _"]:
    return torch.cat(moments(x, stretches.parts(4)), 1).view(len(stretches.row), -1)
