"""Recordings to frames: front end, projection, mask vector, positions, trunk (Baevski et al. 2020, section 2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.convolutional_positions import ConvolutionalPositions
from mmssl.nn.frames import Frames
from mmssl.nn.mel import MelConfig, MelFrontEnd
from mmssl.nn.transformer import Transformer, TransformerConfig
from mmssl.nn.waveform import WaveformConfig, WaveformFrontEnd


@dataclass(frozen=True)
class AudioEncoderConfig:
    """An encoder of recordings, most important settings first."""

    trunk: TransformerConfig
    """Norms after each block as in wav2vec 2.0 base, or before as in large."""
    front_end: WaveformConfig | MelConfig
    """Convolutions of the waveform, or stacked log-mel frames."""
    sample_rate: int = 16_000
    """Samples a second of what is given."""
    position_kernel: int = 128
    """Frames that a position is told from."""
    position_groups: int = 16
    """Groups of the convolution that tells it."""
    input_dropout: float = 0.0
    """Dropout on projected frames; 0.1 in wav2vec 2.0 base."""

    def __post_init__(self) -> None:
        if self.trunk.dim % self.position_groups:
            raise UserError(f"position_groups {self.position_groups} does not divide the width {self.trunk.dim}")
        if self.position_kernel < 1 or self.sample_rate < 1:
            raise UserError(
                f"position_kernel and sample_rate must be at least 1, got {self.position_kernel} and {self.sample_rate}"
            )
        if not 0 <= self.input_dropout < 1:
            raise UserError(f"input_dropout must be at least 0 and below 1, got {self.input_dropout}")


class AudioEncoder(nn.Module):
    """wav2vec 2.0's network without its objective; also that of BEST-RQ."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, epsilon = config.trunk.dim, config.trunk.norm_epsilon
        front_end = config.front_end
        self.front_end = (
            WaveformFrontEnd(front_end)
            if isinstance(front_end, WaveformConfig)
            else MelFrontEnd(front_end, config.sample_rate)
        )
        self.feature_norm = nn.LayerNorm(self.front_end.dim, epsilon)
        self.projection = nn.Linear(self.front_end.dim, dim)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.mask_token = nn.Parameter(torch.empty(dim).uniform_())
        self.positions = ConvolutionalPositions(dim, config.position_kernel, config.position_groups)
        self.position_norm = nn.LayerNorm(dim, epsilon) if config.trunk.norm == "post" else nn.Identity()
        self.position_dropout = nn.Dropout(config.trunk.dropout)
        self.trunk = Transformer(config.trunk)
        self.trunk.apply(lambda module: _initialise(module, dim))

    def layout(self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]) -> Frames:
        """Where the frames of these recordings will lie. Raises UserError where no recording is as long as a frame."""
        widest = int(self.front_end.frames(torch.tensor([audio.shape[1]])))
        frames = Frames.of(self.front_end.frames(length), widest)
        if widest == 0 or frames.packing.total == 0:
            raise UserError(
                f"all recordings of a batch are shorter than the {self.front_end.field_and_step[0]} samples of one "
                "frame: leave out what is that short"
            )
        return frames

    def features(
        self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"], frames: Frames
    ) -> Float[Tensor, "total dim"]:
        """What the front end makes of them, before any norm."""
        return self.front_end(audio, length, frames)

    def embed(
        self, normed: Float[Tensor, "total dim"], frames: Frames, hidden: Bool[Tensor, "batch width"] | None = None
    ) -> Float[Tensor, "1 total inner"]:
        """Input of the trunk, from features that went through ``feature_norm``.

        Hidden frames become the mask vector here, before the convolution of positions could carry them elsewhere.
        """
        x = self.input_dropout(self.projection(normed))
        if hidden is not None:
            x = torch.where(frames.take(hidden)[:, None], self.mask_token.to(x.dtype), x)
        return self.position_dropout(self.position_norm(x + self.positions(x, frames)))[None]

    def forward(
        self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "total dim"], Frames]:
        """Encoded frames with nothing hidden."""
        frames = self.layout(audio, length)
        x = self.embed(self.feature_norm(self.features(audio, length, frames)), frames)
        return self.trunk(x, frames.packing)[0], frames

    def layers(
        self, audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"]
    ) -> tuple[list[Float[Tensor, "total dim"]], Frames]:
        """Frames after each block, with nothing hidden."""
        frames = self.layout(audio, length)
        x = self.embed(self.feature_norm(self.features(audio, length, frames)), frames)
        return [state[0] for state in self.trunk.layers(x, frames.packing)], frames

    def parameter_depths(self, prefix: str) -> dict[str, int]:
        """Depth of each parameter, 0 at the input, under names that begin with ``prefix``."""
        depths = {}
        for name, _ in self.named_parameters():
            if name.startswith("trunk.blocks."):
                depths[prefix + name] = 1 + int(name.split(".")[2])
            elif name.startswith("trunk."):
                depths[prefix + name] = 1 + self.config.trunk.depth
            else:
                depths[prefix + name] = 0
        return depths


def _initialise(module: nn.Module, dim: int) -> None:
    """Normal with deviation 0.02 at the base width of 768 (transformers' initializer_range), larger in narrower models,
    where what blocks add would be lost in the residual stream; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02 * (768 / dim) ** 0.5)
        nn.init.zeros_(module.bias)
