"""The raw input of recordings: their log-mel spectrogram, as the numbers that a classifier can start from."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.evaluation.intervals import Stretches, frames_between, moments
from mmssl.nn.frames import frame_counts
from mmssl.nn.mel import MelConfig, MelFrontEnd
from mmssl.predictors.base import Batch

SEGMENTS = 4
"""Parts of a recording, or of a stretch of one, that statistics are taken of: a word's beginning is not its end."""


class LogMel:
    """Mean and standard deviation of each mel bin over four equal parts of a recording, or of a stretch of one.

    An :data:`mmssl.evaluation.features.Encode`: a row a stretch for batches with ``between``, else a row a recording.
    """

    name = f"log-mel (mean, std of {SEGMENTS} parts)"

    def __init__(self, sample_rate: int, device: torch.device) -> None:
        self.front_end = MelFrontEnd(MelConfig(stack=1), sample_rate).to(device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Mapping[str, Float[Tensor, "row _"]]:
        """Features by name: one, ``statistics``."""
        window, hop = self.front_end.field_and_step
        device = self.front_end.mean.device
        mel = self.front_end.spectrogram_of(batch["audio"].to(device))
        frames = frame_counts(batch["length"].to(device), (window,), (hop,)).clamp_min(1)
        if "between" in batch:
            stretches = frames_between(batch["row"].to(device), batch["between"].to(device), frames, window, hop)
        else:
            stretches = Stretches(torch.arange(len(frames), device=device), torch.zeros_like(frames), frames)
        mean, deviation = moments(mel, stretches.parts(SEGMENTS))
        return {"statistics": torch.cat([mean, deviation], 1).view(len(stretches.row), -1)}
