"""Log-mel spectrograms as frames, stacked (Chiu et al. 2022, "BEST-RQ", section 4: 80 mels, four frames a step)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.nn.frames import Frames, frame_counts

FLOOR = 1e-8
"""Smallest energy of a mel bin, -80 dB below a sine at full scale and far below any microphone: silence is finite."""


@dataclass(frozen=True)
class MelConfig:
    """How a recording becomes stacked frames of mel energies."""

    mels: int = 80
    """Bins on the mel scale."""
    stack: int = 4
    """Neighbouring frames side by side in one step."""
    window: float = 0.025
    """Seconds a frame looks at."""
    hop: float = 0.01
    """Seconds from one frame to the next."""
    statistics: Literal["recording", "data"] = "recording"
    """Over what each bin has mean 0 and variance 1: its recording, or the data that was observed."""
    prior_seconds: float = 0.0
    """With statistics of the recording: as if it went on for so long with average data. A single word keeps what it is,
    where its own mean would take half of it away; a long recording forgets its microphone."""

    def __post_init__(self) -> None:
        if self.mels < 1 or self.stack < 1:
            raise UserError(f"mels and stack must be at least 1, got {self.mels} and {self.stack}")
        if not 0 < self.hop <= self.window:
            raise UserError(f"a mel frame needs 0 < hop <= window, got hop {self.hop} and window {self.window} s")
        if self.prior_seconds < 0 or (self.prior_seconds and self.statistics == "data"):
            raise UserError(
                f"prior_seconds {self.prior_seconds:g} must not be negative, and are of use only with statistics of "
                "the recording"
            )


class MelFrontEnd(nn.Module):
    """Samples to stacked log-mel frames. A frame is computed from its own window alone, so padding changes nothing."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: MelConfig, sample_rate: int) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.config = config
        self.window, self.hop = round(config.window * sample_rate), round(config.hop * sample_rate)
        if self.hop < 1:
            raise UserError(f"a hop of {config.hop} s is less than a sample at {sample_rate} Hz: choose a longer one")
        self.top_mel = 2595 * math.log10(1 + sample_rate / 1400)
        self.fft = 1 << (self.window - 1).bit_length()
        bins = self.fft // 2 + 1
        # a filter spans two steps of the mel scale; the narrowest, at 0 Hz, must not fall between two Fourier bins
        narrowest = 2 * 700 * (10 ** (self.top_mel / (config.mels + 1) / 2595) - 1)
        if narrowest < sample_rate / self.fft:
            raise UserError(
                f"{config.mels} mels are too many for {bins} Fourier bins at {sample_rate} Hz: "
                f"some would be empty; choose fewer mels or a longer window than {config.window} s"
            )
        self.spectrogram = MelSpectrogram(
            sample_rate, n_fft=self.fft, win_length=self.window, hop_length=self.hop, n_mels=config.mels, center=False
        )
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("deviation", torch.ones(config.mels))

    @property
    def dim(self) -> int:
        """Width of a step."""
        return self.config.mels * self.config.stack

    @property
    def observes(self) -> bool:
        """Whether statistics of the data are needed, see :meth:`observe`."""
        return self.config.statistics == "data" or self.config.prior_seconds > 0

    @property
    def learns(self) -> bool:
        """Whether the frames change in training."""
        return False

    @property
    def field_and_step(self) -> tuple[int, int]:
        """Samples a step is computed from, and samples from one to the next."""
        return self.window + (self.config.stack - 1) * self.hop, self.config.stack * self.hop

    def frames(self, length: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Steps of recordings of ``length`` samples; a last one that lacks a frame is left out."""
        return frame_counts(length, (self.window,), (self.hop,)) // self.config.stack

    @torch.no_grad()
    def log_mel(self, audio: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch frame mel"]:
        """Logarithms of mel energies, before anything is normalised or stacked."""
        side = self.fft - self.window
        with torch.autocast(audio.device.type, enabled=False):
            energy = self.spectrogram(F.pad(audio.float(), (side // 2, side - side // 2)))
        return energy.clamp_min(FLOOR).log().transpose(1, 2)

    @torch.no_grad()
    def forward(
        self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"], frames: Frames
    ) -> Float[Tensor, "total dim"]:
        """Normalised steps laid end to end as ``frames`` says."""
        return self.steps(self.spectrogram_of(audio), length, frames)

    @torch.no_grad()
    def spectrogram_of(self, audio: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch frame mel"]:
        """:meth:`log_mel` with one frame at least."""
        return self.log_mel(F.pad(audio, (0, max(self.window - audio.shape[1], 0))))

    @torch.no_grad()
    def steps(
        self, mel: Float[Tensor, "batch frame mel"], length: Int[Tensor, " batch"], frames: Frames
    ) -> Float[Tensor, "total dim"]:
        """A spectrogram, normalised and stacked, laid end to end as ``frames`` says."""
        if self.config.statistics == "recording":
            counts = frame_counts(length, (self.window,), (self.hop,))
            mean, variance = _moments(mel, counts)
            if self.config.prior_seconds:
                prior = self.config.prior_seconds / self.config.hop
                mean, variance = _joined(mean, variance, counts, self.mean, self.deviation.square(), prior)
            deviation = (variance + 1e-5).sqrt()  # a bin that never changes becomes 0
        else:
            mean, deviation = self.mean, self.deviation
        return self._stack((mel - mean) / deviation, frames)

    @torch.no_grad()
    def cepstra(
        self, mel: Float[Tensor, "batch frame mel"], length: Int[Tensor, " batch"], frames: Frames, count: int
    ) -> Float[Tensor, "total _"]:
        """The first ``count`` cepstral coefficients of each frame, each of mean 0 and variance 1 in its recording,
        stacked and laid end to end: the envelope of the spectrum without the pitch (Davis & Mermelstein 1980)."""
        bins = torch.arange(self.config.mels, device=mel.device) + 0.5
        order = torch.arange(count, device=mel.device)
        cepstra = mel @ torch.cos(math.pi / self.config.mels * bins[:, None] * order)
        mean, variance = _moments(cepstra, frame_counts(length, (self.window,), (self.hop,)))
        return self._stack((cepstra - mean) / (variance + 1e-5).sqrt(), frames)

    def _stack(self, values: Float[Tensor, "batch frame bin"], frames: Frames) -> Float[Tensor, "total _"]:
        wanted = frames.width * self.config.stack
        values = F.pad(values, (0, 0, 0, max(wanted - values.shape[1], 0)))[:, :wanted]
        return frames.take(values.reshape(len(values), frames.width, -1))

    def observe(self, sums: Float[Tensor, "3 mel"]) -> None:
        """Take count, sum and sum of squares over the data, as added up by :meth:`statistics`."""
        count, total, squares = sums.double()
        mean = total / count.clamp_min(1)
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count.clamp_min(1) - mean.square()).clamp_min(FLOOR).sqrt())

    def statistics(self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]) -> Float[Tensor, "3 mel"]:
        """Count, sum and sum of squares of each bin over the real frames of a batch, in double precision."""
        mel = self.spectrogram_of(audio).double()
        counts = frame_counts(length, (self.window,), (self.hop,))
        real = (torch.arange(mel.shape[1], device=mel.device) < counts[:, None])[:, :, None]
        mel = torch.where(real, mel, 0)
        return torch.stack([real.sum().expand(mel.shape[2]), mel.sum((0, 1)), mel.square().sum((0, 1))])


def _moments(
    mel: Float[Tensor, "batch frame mel"], counts: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch 1 mel"], Float[Tensor, "batch 1 mel"]]:
    """Mean and variance of each bin over the real frames of each recording."""
    real = (torch.arange(mel.shape[1], device=mel.device) < counts[:, None])[:, :, None]
    count = counts.clamp_min(1)[:, None, None]
    mean = torch.where(real, mel, 0).sum(1, keepdim=True) / count
    variance = torch.where(real, mel - mean, 0).square().sum(1, keepdim=True) / count
    return mean, variance


def _joined(
    mean: Float[Tensor, "batch 1 mel"],
    variance: Float[Tensor, "batch 1 mel"],
    counts: Int[Tensor, " batch"],
    data_mean: Float[Tensor, " mel"],
    data_variance: Float[Tensor, " mel"],
    prior: float,
) -> tuple[Float[Tensor, "batch 1 mel"], Float[Tensor, "batch 1 mel"]]:
    """Mean and variance of recordings of ``counts`` frames and of ``prior`` frames of data, taken as one."""
    share = (counts / (counts + prior))[:, None, None]
    between = share * (1 - share) * (mean - data_mean).square()
    return share * mean + (1 - share) * data_mean, share * variance + (1 - share) * data_variance + between
