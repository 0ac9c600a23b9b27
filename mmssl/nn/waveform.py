"""The convolutions of wav2vec 2.0 from samples to frames (Baevski et al. 2020, section 2 and appendix A).

Seven layers, 16,000 samples a second to 49 frames, each from 400 samples (25 ms), 320 (20 ms) apart. Two published
forms: group norm in the first layer alone, a group a channel, without biases (base); layer norm in every layer, with
biases (large).

On a CPU the recordings run as one stream without padding: channels last, matrix products instead of convolutions
(:mod:`mmssl.nn.strided`), and a first layer whose group norm is known before it is computed: mean and variance of
w . x over the windows x of a recording follow from the mean and the covariance of the windows, ten numbers and a
hundred, so norm and convolution are one product, and the largest tensor of the network is written once. On CUDA they
are convolutions of padded rows.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.nn.frames import Frames, frame_counts, receptive_field
from mmssl.nn.strided import strided_convolution

GROUP_NORM_EPSILON = 1e-5
"""torch's default, which fairseq and transformers use."""


@dataclass(frozen=True)
class WaveformConfig:
    """Shape of the convolutions; the defaults are those of wav2vec 2.0 base."""

    dim: int = 512
    """Channels of every layer."""
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Width of each layer's kernel."""
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each layer."""
    norm: Literal["group", "layer"] = "group"
    """Group norm in the first layer (base), or layer norm in each (large)."""
    bias: bool = False
    """Whether the convolutions have biases, as those of large have."""
    group_norm_over: Literal["recording", "row"] = "recording"
    """What group norm averages over: the recording, or the padded row that it came in, as in transformers."""
    normalize: bool = True
    """Bring each recording to mean 0 and variance 1 first."""

    def __post_init__(self) -> None:
        if len(self.kernels) != len(self.strides) or not self.kernels:
            raise UserError(f"kernels {self.kernels} and strides {self.strides} must be as many, at least one")
        if self.dim < 1 or min(self.kernels) < 1 or min(self.strides) < 1:
            raise UserError(f"dim, kernels and strides must be at least 1, got {self}")


class WaveformFrontEnd(nn.Module):
    """Samples to frames.

    With layer norm a frame depends on its own samples alone (and, where ``normalize`` is set, on the mean and variance
    of the recording), so padding changes nothing. With group norm it depends on the whole recording; and where
    ``group_norm_over="row"``, as in transformers, on the length of the longest recording in the batch too, since the
    zeros behind the end are averaged in. Both are the same for a recording on its own.
    """

    def __init__(self, config: WaveformConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [1] + [config.dim] * (len(config.kernels) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, config.dim, kernel, stride, bias=config.bias)
            for channels, kernel, stride in zip(inputs, config.kernels, config.strides, strict=True)
        )
        norms = len(config.kernels) if config.norm == "layer" else 1
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim, GROUP_NORM_EPSILON) for _ in range(norms))
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            nn.init.kaiming_normal_(convolution.weight)

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.config.dim

    @property
    def learns(self) -> bool:
        """Whether the frames change in training."""
        return True

    @property
    def field_and_step(self) -> tuple[int, int]:
        """Samples a frame is computed from, and samples from one to the next."""
        return receptive_field(self.config.kernels, self.config.strides)

    def frames(self, length: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Frames of recordings of ``length`` samples whose receptive field is real."""
        return frame_counts(length, self.config.kernels, self.config.strides)

    def forward(
        self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"], frames: Frames
    ) -> Float[Tensor, "total dim"]:
        """Frames laid end to end as ``frames`` says; ``audio`` is zero behind ``length``."""
        audio = audio.float()
        if self.config.normalize:
            audio = _standardise(audio, length)
        return self._rows(audio, length, frames) if audio.is_cuda else self._stream(audio, length, frames)

    def _layer(self, number: int) -> tuple[nn.Conv1d, nn.LayerNorm | None]:
        convolution = self.convolutions[number]
        norm = self.norms[number] if number < len(self.norms) else None
        assert isinstance(convolution, nn.Conv1d)
        assert norm is None or isinstance(norm, nn.LayerNorm)
        return convolution, norm

    def _rows(self, audio: Tensor, length: Tensor, frames: Frames) -> Float[Tensor, "total dim"]:
        x = audio[:, None]
        for number in range(len(self.convolutions)):
            convolution, norm = self._layer(number)
            if number == 0 and self.config.norm == "group":
                scale, shift = self._group_norm(audio, length)
                x = F.conv1d(x, convolution.weight, stride=convolution.stride)
                x = x.float() * scale[:, :, None] + shift[:, :, None]
            else:
                x = convolution(x)
                x = x if norm is None else norm(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(x)
        return frames.take(x.transpose(1, 2))

    def _stream(self, audio: Tensor, length: Tensor, frames: Frames) -> Float[Tensor, "total dim"]:
        field, step = self.field_and_step
        chunks = torch.where(frames.lengths > 0, (frames.lengths * step + field - 1) // step, 0)
        width = int(chunks.max())
        kept = torch.arange(width) < chunks[:, None]
        padded = F.pad(audio, (0, max(width * step - audio.shape[1], 0)))[:, : width * step].reshape(-1, step)
        row = torch.arange(len(audio)).repeat_interleave(chunks)
        whole = bool(kept.all())
        x = self._first(padded if whole else padded[kept.flatten()], None if whole else row, audio, length)
        for number in range(1, len(self.convolutions)):
            convolution, norm = self._layer(number)
            x = strided_convolution(x, convolution.weight, convolution.bias, convolution.stride[0])
            x = F.gelu(x if norm is None else norm(x))
        real = torch.arange(width) < frames.lengths[:, None]
        return x.index_select(0, real[kept].nonzero()[:, 0])

    def _first(
        self, chunks: Float[Tensor, "chunk step"], row: Tensor | None, audio: Tensor, length: Tensor
    ) -> Float[Tensor, "frame dim"]:
        """First layer. ``row``: the recording of each chunk; None where all have as many."""
        convolution, norm = self._layer(0)
        (kernel,), (stride,) = convolution.kernel_size, convolution.stride
        stream = F.pad(chunks.flatten(), (0, max(kernel - stride, 0)))
        windows = stream.unfold(0, kernel, stride)[: chunks.numel() // stride]
        weight = convolution.weight[:, 0]
        if self.config.norm == "layer":
            assert norm is not None
            return F.gelu(norm(F.linear(windows, weight, convolution.bias)))
        scale, shift = self._group_norm(audio, length)
        folded = (weight * scale[:, :, None]).transpose(1, 2)
        if row is not None:
            folded, shift = folded.index_select(0, row), shift.index_select(0, row)
        return F.gelu(torch.baddbmm(shift[:, None], windows.reshape(len(shift), -1, kernel), folded)).flatten(0, 1)

    def _group_norm(
        self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Scale and shift that the norm of the first layer amounts to. In double precision: a filter may have no use
        for what most of the covariance is about, loudness at low frequencies."""
        convolution, norm = self._layer(0)
        assert norm is not None
        (kernel,), (stride,) = convolution.kernel_size, convolution.stride
        windows = audio.double().unfold(1, kernel, stride)
        samples = torch.full_like(length, audio.shape[1]) if self.config.group_norm_over == "row" else length
        count = frame_counts(samples, (kernel,), (stride,))[:, None]
        inside = (torch.arange(windows.shape[1], device=audio.device) < count)[:, :, None]
        mean = torch.where(inside, windows, 0).sum(1) / count.clamp_min(1)
        centred = torch.where(inside, windows - mean[:, None], 0)
        covariance = centred.transpose(1, 2) @ centred / count.clamp_min(1)[:, :, None]
        weight = convolution.weight[:, 0].double()
        variance = ((weight @ covariance) * weight).sum(-1)
        scale = norm.weight / (variance + GROUP_NORM_EPSILON).sqrt()
        # a bias of the convolution, where there is one, shifts all frames alike: the norm takes it away again
        return scale.float(), (norm.bias - scale * (mean @ weight.T)).float()


def _standardise(audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]) -> Float[Tensor, "batch sample"]:
    """Mean 0 and variance 1 over the real samples, zero behind (transformers' Wav2Vec2FeatureExtractor, its 1e-7)."""
    real = torch.arange(audio.shape[1], device=audio.device) < length[:, None]
    count = length.clamp_min(1)[:, None]
    centred = torch.where(real, audio - torch.where(real, audio, 0).sum(1, keepdim=True) / count, 0)
    return centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()
