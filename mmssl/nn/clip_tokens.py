"""A clip as tokens of two senses on one time axis: cubes of pictures, and the mel frames of each video frame."""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.patches import patch_grid, patchify, sincos, sincos_positions, unpatchify


class ClipTokens:
    """Where the tokens of clips of ``frames`` frames are, and how to cut them and put them together again.

    A visual token is a cube of ``cube`` = (frames, height, width) pixels. An audio token is the mel frames in the
    middle of a video frame; the first and last video frames have none where these would reach over the clip's edge.
    """

    def __init__(self, clip: ClipConfig, frames: int, cube: tuple[int, int, int]) -> None:
        if cube[0] < 1 or frames < 1 or frames % cube[0]:
            raise UserError(f"cubes of {cube[0]} frames do not divide clips of {frames} frames: choose another number")
        self.clip, self.frames, self.cube = clip, frames, cube
        rows, columns = patch_grid(clip.picture_size, cube[1:])
        self.grid = (frames // cube[0], rows, columns)
        self.visual = math.prod(self.grid)
        self.pixels = math.prod(cube) * clip.channels
        samples, window = clip.samples_per_frame, round(clip.mel.window * clip.sample_rate)
        span = window + (clip.mel_per_frame - 1) * clip.hop
        before = max(span - samples, 0) / 2
        self.first = math.ceil(before / samples)
        """Video frame of the first audio token."""
        self.audio = frames - 2 * self.first
        if self.audio < 2:
            raise UserError(f"clips of {frames} frames have {max(self.audio, 0)} audio tokens: choose longer ones")
        self.lead = self.first * samples + (samples - span) // 2
        """Sample at which the first mel frame begins."""
        self.mels = clip.mel_per_frame * clip.mel.mels

    @property
    def total(self) -> int:
        """Tokens of a clip: visual ones, audio ones behind them."""
        return self.visual + self.audio

    def cut_pictures(
        self, video: Shaped[Tensor, "batch frame channel height width"]
    ) -> Shaped[Tensor, "batch token pixel"]:
        """Cubes, by time, then row by row; within a cube by frame, row, column, channel."""
        patches = patchify(video.flatten(0, 1), self.cube[1:]).unflatten(0, (len(video), self.grid[0], self.cube[0]))
        return patches.transpose(2, 3).flatten(3).flatten(1, 2)

    def join_pictures(
        self, tokens: Shaped[Tensor, "batch token pixel"]
    ) -> Shaped[Tensor, "batch frame channel height width"]:
        """Inverse of :meth:`cut_pictures`."""
        patches = tokens.unflatten(1, (self.grid[0], -1)).unflatten(3, (self.cube[0], -1)).transpose(2, 3)
        video = unpatchify(patches.flatten(0, 2), self.clip.picture_size, self.cube[1:])
        return video.unflatten(0, (len(tokens), self.frames))

    def cut_sounds(self, mel: Shaped[Tensor, "batch frame mel"]) -> Shaped[Tensor, "batch token value"]:
        """The mel frames of each video frame side by side; ``mel`` begins at ``lead``."""
        step = self.clip.mel_per_frame
        return mel[:, : self.audio * step].unflatten(1, (self.audio, step)).flatten(2)

    def join_sounds(self, tokens: Shaped[Tensor, "batch token value"]) -> Shaped[Tensor, "batch frame mel"]:
        """Inverse of :meth:`cut_sounds`."""
        return tokens.unflatten(2, (self.clip.mel_per_frame, -1)).flatten(1, 2)

    def positions(self, dim: int) -> Float[Tensor, "token dim"]:
        """Sines and cosines: half of the width for the time in frames, the same for both senses; the other half for the
        place in the picture, 0 for sounds. Raises UserError where the width is not divisible by 8."""
        if dim % 8:
            raise UserError(f"positions in time and space need a width divisible by 8, got {dim}")
        time = torch.arange(float(self.grid[0])) * self.cube[0] + (self.cube[0] - 1) / 2
        space = sincos_positions(self.grid[1:], dim // 2)
        seen = torch.cat([sincos(time, dim // 2).repeat_interleave(len(space), 0), space.repeat(len(time), 1)], 1)
        heard = sincos(self.first + torch.arange(float(self.audio)), dim // 2)
        return torch.cat([seen, torch.cat([heard, torch.zeros_like(heard)], 1)])
