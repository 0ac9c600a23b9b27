"""Where the frames of recordings lie when they are laid end to end, and how to come back to one row a recording."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmssl.nn.packing import Packing


@dataclass(frozen=True)
class Frames:
    """Frames of a batch of recordings, end to end. Made by :meth:`of`.

    On CPU nothing but real frames is kept. On CUDA the number of real frames is unknown to the host, and asking would
    make it wait; there each recording is followed by its padding as a sequence of its own, which nobody looks at.
    """

    lengths: Int[Tensor, " batch"]
    """Real frames of each recording."""
    width: int
    """Frames of a padded row."""
    place: Int[Tensor, " total"] | None
    """For each frame kept its place in the flattened [batch, width]; None where all are kept."""
    real: Bool[Tensor, "batch width"]
    """True = a frame that was computed from real samples alone."""
    packing: Packing
    """What the trunk needs to know."""

    @classmethod
    def of(cls, lengths: Int[Tensor, " batch"], width: int) -> "Frames":
        """Lay out recordings of ``lengths`` frames each, none longer than ``width``."""
        real = torch.arange(width, device=lengths.device) < lengths[:, None]
        if lengths.is_cuda:
            both = torch.stack([lengths, width - lengths], 1).flatten()
            return cls(lengths, width, None, real, Packing(both, real.numel(), width))
        place = None if bool(real.all()) else real.flatten().nonzero()[:, 0]
        total = real.numel() if place is None else len(place)
        return cls(lengths, width, place, real, Packing(lengths, total, width))

    def take(self, x: Shaped[Tensor, "batch width *rest"]) -> Shaped[Tensor, "total *rest"]:
        """From padded rows to frames end to end."""
        flat = x.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)

    def put_back(self, x: Shaped[Tensor, "total *rest"], fill: float = 0.0) -> Shaped[Tensor, "batch width *rest"]:
        """Inverse of :meth:`take`: padded rows, ``fill`` behind their end."""
        if self.place is not None:
            x = x.new_full((self.real.numel(), *x.shape[1:]), fill).index_copy(0, self.place, x)
        elif x.is_cuda:
            x = torch.where(self.real.flatten().view(-1, *[1] * (x.ndim - 1)), x, fill)
        return x.view(*self.real.shape, *x.shape[1:])

    @property
    def row(self) -> Int[Tensor, " total"]:
        """The recording that each frame belongs to."""
        sequence = self.packing.sequence
        return sequence // 2 if len(self.packing.lengths) > len(self.lengths) else sequence

    def sums(self, x: Float[Tensor, "total *rest"]) -> Float[Tensor, "batch *rest"]:
        """Sum over the real frames of each recording, in single precision."""
        x = x.float()
        if x.is_cuda:
            return self.put_back(x).sum(1)
        return x.new_zeros(len(self.lengths), *x.shape[1:]).index_add(0, self.row, x)

    def means(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "batch dim"]:
        """Mean over the real frames of each recording; zeros for a recording without any."""
        return self.sums(x) / self.lengths.clamp_min(1)[:, None]


def part_statistics(
    x: Float[Tensor, "batch width dim"], lengths: Int[Tensor, " batch"], parts: int
) -> Float[Tensor, "batch _"]:
    """Means over ``parts`` equal parts of each recording, side by side, then standard deviations.

    A part that would be empty takes its nearest frame, and a recording without frames is zero. Padding may hold
    anything.
    """
    number = torch.arange(parts, device=x.device)
    long = lengths[:, None]
    first = (long * number // parts).minimum((long - 1).clamp_min(0))
    stop = torch.maximum(long * (number + 1) // parts, first + 1)
    column = torch.arange(x.shape[1], device=x.device)
    inside = (column >= first[..., None]) & (column < stop[..., None]) & (column < long[..., None])
    real = (column < long)[..., None]
    x, weight = torch.where(real, x.float(), 0), inside.float() / (stop - first)[..., None]
    # about the mean of the recording, where little is lost when squares are subtracted
    centre = (x.sum(1) / long.clamp_min(1))[:, None]
    mean, square = weight @ (x - centre), weight @ (x - centre).square()
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    mean = torch.where(inside.any(-1, keepdim=True), mean + centre, 0)
    deviation = torch.where(inside.any(-1, keepdim=True), deviation, 0)
    return torch.cat([mean.flatten(1), deviation.flatten(1)], 1)


def frame_counts(samples: Int[Tensor, " batch"], kernels: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Frames behind convolutions without padding: in each layer floor((n - kernel) / stride) + 1, and never below 0."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = ((samples - kernel) // stride + 1).clamp_min(0)
    return samples


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Samples that one frame is computed from, and samples from one frame to the next."""
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field, step
