"""Log-mel spectrograms as frames, stacked (Chiu et al. 2022, "BEST-RQ", section 4: 80 mels, four frames a step)."""

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

    def __post_init__(self) -> None:
        if self.mels < 1 or self.stack < 1:
            raise UserError(f"mels and stack must be at least 1, got {self.mels} and {self.stack}")
        if not 0 < self.hop <= self.window:
            raise UserError(f"a mel frame needs 0 < hop <= window, got hop {self.hop} and window {self.window} s")


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
        self.fft = 1 << (self.window - 1).bit_length()
        bins, highest = self.fft // 2 + 1, 2595 * torch.tensor(1 + sample_rate / 1400).log10()
        # a filter spans two steps of the mel scale; the narrowest, at 0 Hz, must not fall between two Fourier bins
        narrowest = 2 * 700 * (10 ** (float(highest) / (config.mels + 1) / 2595) - 1)
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
        mel = self.log_mel(F.pad(audio, (0, max(self.window - audio.shape[1], 0))))
        if self.config.statistics == "recording":
            counts = frame_counts(length, (self.window,), (self.hop,))
            mean, deviation = _moments(mel, counts)
        else:
            mean, deviation = self.mean, self.deviation
        mel = (mel - mean) / deviation
        missing = frames.width * self.config.stack - mel.shape[1]
        mel = F.pad(mel, (0, 0, 0, max(missing, 0)))[:, : frames.width * self.config.stack]
        return frames.take(mel.reshape(len(mel), frames.width, self.dim))

    def observe(self, sums: Float[Tensor, "3 mel"]) -> None:
        """Take count, sum and sum of squares over the data, as added up by :meth:`statistics`."""
        count, total, squares = sums.double()
        mean = total / count.clamp_min(1)
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count.clamp_min(1) - mean.square()).clamp_min(FLOOR).sqrt())

    def statistics(self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]) -> Float[Tensor, "3 mel"]:
        """Count, sum and sum of squares of each bin over the real frames of a batch, in double precision."""
        mel = self.log_mel(F.pad(audio, (0, max(self.window - audio.shape[1], 0)))).double()
        counts = frame_counts(length, (self.window,), (self.hop,))
        real = (torch.arange(mel.shape[1], device=mel.device) < counts[:, None])[:, :, None]
        mel = torch.where(real, mel, 0)
        return torch.stack([real.sum().expand(mel.shape[2]), mel.sum((0, 1)), mel.square().sum((0, 1))])


def _moments(
    mel: Float[Tensor, "batch frame mel"], counts: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch 1 mel"], Float[Tensor, "batch 1 mel"]]:
    """Mean and deviation of each bin over the real frames of each recording. A bin that never changes becomes 0."""
    real = (torch.arange(mel.shape[1], device=mel.device) < counts[:, None])[:, :, None]
    count = counts.clamp_min(1)[:, None, None]
    mean = torch.where(real, mel, 0).sum(1, keepdim=True) / count
    variance = torch.where(real, mel - mean, 0).square().sum(1, keepdim=True) / count
    return mean, (variance + 1e-5).sqrt()
