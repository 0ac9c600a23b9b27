"""Two small encoders of short windows of a clip: one of its pictures, one of its sound.

In the manner of SyncNet (Chung & Zisserman 2016, "Out of time: automated lip sync in the wild"): the frames of a window
are channels of the first convolution, a spectrogram is a picture. Layers are fewer and narrower than there, so that
minutes on two CPU cores suffice. A window is computed from its own frames alone: nothing is padded in time.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.nn.clip_clock import ClipConfig

AT_ONCE = 1024
"""Windows of pictures that are computed at once where no gradient is wanted: bounds the memory of activations."""


@dataclass(frozen=True)
class WindowsConfig:
    """The two encoders of windows, most important settings first."""

    dim: int = 256
    """Width of an embedding."""
    visual_widths: tuple[int, ...] = (32, 64, 128, 128)
    """Channels of the layers on pictures; each halves height and width."""
    audio_widths: tuple[int, ...] = (32, 64, 128, 128)
    """Channels of the layers on spectrograms; each halves the mel bins and takes 2 frames off the time."""

    def __post_init__(self) -> None:
        if self.dim < 1 or not self.visual_widths or not self.audio_widths:
            raise UserError(
                f"encoders of windows need dim 1 and a layer each, got {self.dim}, {self.visual_widths} and "
                f"{self.audio_widths}"
            )


class ConvolutionNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: tuple[int, int], padding: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inner, outer, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(outer)

    def forward(self, x: Float[Tensor, "batch inner height width"]) -> Float[Tensor, "batch outer _ _"]:
        """Apply."""
        return F.relu(self.norm(self.convolution(x)))


class Head(nn.Module):
    """Two linear layers with batch norm and ReLU between them."""

    def __init__(self, inner: int, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inner, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "row inner"]) -> Float[Tensor, "row dim"]:
        """Apply."""
        return self.output(F.relu(self.norm(self.hidden(x))))


class VisualWindows(nn.Module):
    """Windows of pictures to vectors. The last layer's grid of places is what localisation looks at."""

    def __init__(self, config: WindowsConfig, frames: int, size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.frames = frames
        widths = (channels * frames, *config.visual_widths)
        self.layers = nn.ModuleList()
        for number, (inner, outer) in enumerate(pairwise(widths)):
            kernel = 3 if number else 5
            self.layers.append(ConvolutionNorm(inner, outer, kernel, (2, 2), (kernel // 2, kernel // 2)))
        steps = 2 ** len(config.visual_widths)
        self.grid = (-(-size[0] // steps), -(-size[1] // steps))
        self.head = Head(widths[-1] * self.grid[0] * self.grid[1], config.dim)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def windows(
        self, video: Float[Tensor, "batch frame channel height width"]
    ) -> Float[Tensor, "row stack height width"]:
        """All windows of all clips, their frames as channels."""
        stacked = video.unfold(1, self.frames, 1).permute(0, 1, 5, 2, 3, 4)
        return stacked.flatten(2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def places(self, windows: Float[Tensor, "row stack height width"]) -> Float[Tensor, "row inner h w"]:
        """What the layers make of windows, by place."""
        for layer in self.layers:
            windows = layer(windows)
        return windows

    def forward(self, video: Float[Tensor, "batch frame channel height width"]) -> Float[Tensor, "batch window dim"]:
        """Window t sees frames t ... t + frames - 1."""
        count = video.shape[1] - self.frames + 1
        step = len(video) * count if torch.is_grad_enabled() else AT_ONCE
        rows = [self.head(self.places(part).flatten(1)) for part in self.windows(video).split(step)]
        return torch.cat(rows).unflatten(0, (len(video), count))


class AudioWindows(nn.Module):
    """Windows of a log-mel spectrogram to vectors, as convolutions over the whole clip: each mel frame is seen once."""

    def __init__(self, config: WindowsConfig, window: int, clip: ClipConfig) -> None:
        super().__init__()
        depth, (_, frames) = len(config.audio_widths), clip.mel_in(window)
        if frames <= 2 * depth:
            raise UserError(
                f"windows of {window} frames have {frames} mel frames, too few for {depth} layers: choose longer "
                "windows or fewer audio_widths"
            )
        widths = (1, *config.audio_widths)
        self.layers = nn.ModuleList(
            ConvolutionNorm(inner, outer, 3, (2, 1), (1, 0)) for inner, outer in pairwise(widths)
        )
        bins = -(-clip.mel.mels // 2**depth)
        self.window = nn.Conv2d(widths[-1], config.dim, (bins, frames - 2 * depth), (1, clip.mel_per_frame), bias=False)
        self.norm = nn.BatchNorm1d(config.dim)
        self.output = nn.Linear(config.dim, config.dim)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, mel: Float[Tensor, "batch frame mel"]) -> Float[Tensor, "batch window dim"]:
        """``mel`` begins at the ``lead`` of :meth:`ClipConfig.mel_in`: window t lies in the middle of its frames."""
        x = mel.transpose(1, 2)[:, None].contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer(x)
        x = self.window(x)[:, :, 0].transpose(1, 2)
        rows = self.output(F.relu(self.norm(x.flatten(0, 1))))
        return rows.unflatten(0, x.shape[:2])
