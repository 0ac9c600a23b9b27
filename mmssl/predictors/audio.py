"""What predictors of recordings share: an encoder of frames, and spans of them that are hidden.

A batch holds ``audio``, float32 ``[batch, sample]`` at the encoder's sample rate and zero behind the end, and
``length``, its real samples.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, span_mask
from mmssl.masking.choice import counts_of
from mmssl.nn.audio_encoder import AudioEncoder
from mmssl.nn.frames import Frames, frame_counts, part_statistics
from mmssl.nn.mel import FLOOR, MelConfig, MelFrontEnd
from mmssl.nn.waveform import WaveformConfig
from mmssl.perturbations.spectrogram import add_white_noise, vary_spectrogram
from mmssl.predictors.base import Batch, Predictor

STREAM_KEPT = 0x6B657074
VALIDATION_FRACTION, VALIDATION_SPAN = 0.49, 10
"""Evaluation hides this share, in spans of so many frames, whatever the run does in training: losses compare."""


class Hidden(NamedTuple):
    """The hidden frames of a batch, end to end."""

    mask: Bool[Tensor, "batch width"]
    """True = hidden, in padded rows."""
    ids: Int[Tensor, "1 hidden"]
    """Where they are among all frames laid end to end, ascending."""
    counted: Bool[Tensor, " hidden"]
    """False where an id only fills up, which happens on CUDA alone."""
    row: Int[Tensor, " hidden"]
    """The recording of each."""
    counts: Int[Tensor, " batch"]
    """How many each recording has."""
    slot: Int[Tensor, " hidden"]
    """Place of each in the flattened [batch, most]; what only fills up goes behind the last one."""
    most: int
    """Bound of ``counts``, known to the host."""

    def rows(self, x: Float[Tensor, "hidden *rest"], fill: float = 0.0) -> Float[Tensor, "batch most *rest"]:
        """A row a recording, filled up with ``fill``."""
        slots = len(self.counts) * self.most
        if x.is_cuda or len(x) < slots:
            x = x.new_full((slots + 1, *x.shape[1:]), fill).index_copy(0, self.slot, x)[:slots]
        return x.view(len(self.counts), self.most, *x.shape[1:])

    def spread(self, x: Float[Tensor, "hidden *rest"], total: int, fill: float) -> Float[Tensor, "total *rest"]:
        """Back among all ``total`` frames laid end to end, ``fill`` where nothing is hidden."""
        place = torch.where(self.counted, self.ids[0], total)
        return x.new_full((total + 1, *x.shape[1:]), fill).index_copy(0, place, x)[:total]

    def sum(self, values: Float[Tensor, " hidden"]) -> Float[Tensor, ""]:
        """Sum over those that count, in single precision."""
        return torch.where(self.counted, values.float(), 0).sum()


def check_variation(variation: float, front_end: WaveformConfig | MelConfig) -> None:
    """Raises UserError for a negative strength, and where there is no spectrogram to vary."""
    if variation < 0:
        raise UserError(f"variation must not be negative, got {variation:g}")
    if variation and not isinstance(front_end, MelConfig):
        raise UserError("variation changes spectrograms: give 0 with a front end of convolutions")


def check_cepstra(cepstra: int, front_end: WaveformConfig | MelConfig) -> None:
    """Raises UserError for more coefficients than mels, and where there are no mels."""
    most = front_end.mels if isinstance(front_end, MelConfig) else 0
    if not 0 <= cepstra <= most:
        raise UserError(f"cepstra must be from 0 to the {most} mels of the front end, got {cepstra}")


def check_spans(mask_fraction: float, span: int, keep_fraction: float = 0.0) -> None:
    """Raises UserError for a fraction that is no share, or a span that is none."""
    if not 0 <= keep_fraction < 1:
        raise UserError(f"keep_fraction must be at least 0 and below 1, got {keep_fraction}")
    if not 0 < mask_fraction < 1:
        raise UserError(f"mask_fraction must lie between 0 and 1, got {mask_fraction}")
    if span < 1:
        raise UserError(f"span must be at least 1 frame, got {span}")


class AudioPredictor(Predictor):
    """Hides spans of frames of recordings."""

    encoder: AudioEncoder

    @property
    def sample_rate(self) -> int:
        """Samples a second of the recordings that it takes."""
        return self.encoder.config.sample_rate

    def spectrogram(self, batch: Batch) -> Float[Tensor, "batch frame mel"]:
        """Log-mel of a mel front end, in training varied as ``variation`` says."""
        front_end = self.encoder.front_end
        assert isinstance(front_end, MelFrontEnd)
        audio, strength = batch["audio"], self.config.variation
        if not (self.training and strength):
            return front_end.spectrogram_of(audio)
        key = NoiseKey.of(batch, self.mask_seed)
        mel = front_end.spectrogram_of(add_white_noise(audio, batch["length"], key, strength))
        return vary_spectrogram(mel, key, front_end.top_mel, strength).clamp_min(math.log(FLOOR))

    @torch.no_grad()
    def observe(self, batches: Iterable[Batch]) -> None:
        """Take the statistics of the training data that a mel front end normalises with, before training.

        Gone through once, or not at all where each recording is normalised by itself.
        """
        front_end = self.encoder.front_end
        if isinstance(front_end, MelFrontEnd) and front_end.observes:
            sums = [front_end.statistics(batch["audio"], batch["length"]) for batch in batches]
            front_end.observe(torch.stack(sums).sum(0))

    def take_observed(self, other: Any) -> None:
        """Normalise as ``other`` does: statistics of the data are no knowledge that was learned."""
        mine, others = self.encoder.front_end, other.encoder.front_end
        if isinstance(mine, MelFrontEnd) and isinstance(others, MelFrontEnd):
            mine.mean.copy_(others.mean)
            mine.deviation.copy_(others.deviation)

    def frames(self, length: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Frames of recordings of ``length`` samples; at least two are needed for one to be hidden."""
        return self.encoder.front_end.frames(length)

    def hide(self, batch: Batch, frames: Frames) -> Hidden:
        """Draw spans: exactly the fraction of each recording's frames, the last span shortened to hit it.

        A recording shorter than a span hides one shorter span, one of a single frame nothing.
        """
        fraction, span = VALIDATION_FRACTION, VALIDATION_SPAN
        if self.training:
            fraction, span = self.config.mask_fraction, self.config.span
        key = NoiseKey.of(batch, self.mask_seed)
        mask = span_mask(key, frames.width, fraction, valid=frames.real, span=min(span, frames.width))
        most = int(counts_of(torch.tensor([frames.width]), frames.width, fraction))
        return locate(mask, frames, max(most, 1))

    def ask(self, batch: Batch, frames: Frames, hidden: Hidden) -> Hidden:
        """What is predicted: the hidden frames, and in training also visible ones, as ``keep_fraction`` says."""
        fraction = self.config.keep_fraction
        if not (self.training and fraction):
            return hidden
        key = NoiseKey.of(batch, (self.mask_seed ^ STREAM_KEPT) & (2**63 - 1))
        span = min(self.config.span, frames.width)
        kept = span_mask(key, frames.width, fraction, valid=frames.real, span=span)
        most = hidden.most + int(counts_of(torch.tensor([frames.width]), frames.width, fraction))
        return locate(hidden.mask | kept, frames, min(most, frames.width))

    @abstractmethod
    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        """For the eye: ``original``, ``perturbed``, log-mel ``[batch, frame, mel]``; ``hidden`` ``[batch, step]``."""

    def encode_frames(self, batch: Batch) -> tuple[Float[Tensor, "batch width dim"], Int[Tensor, " batch"]]:
        """Features of every frame with nothing hidden, zero behind the last one, and how many each recording has."""
        x, frames = self.encoder(batch["audio"], batch["length"])
        return frames.put_back(x), frames.lengths

    def encode_clean(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features of whole recordings: ``mean`` over their frames, and ``quarters``, mean and standard deviation over
        each quarter: a word's beginning is not its end."""
        x, frames = self.encoder(batch["audio"], batch["length"])
        return {"mean": frames.means(x), "quarters": _quarters(x, frames)}

    def encode_layers(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """:meth:`encode_clean`, and ``layer 1``, ``layer 2`` ...: quarters after each block but the last."""
        states, frames = self.encoder.layers(batch["audio"], batch["length"])
        *earlier, last = states
        features = {"mean": frames.means(last), "quarters": _quarters(last, frames)}
        return features | {f"layer {number}": _quarters(state, frames) for number, state in enumerate(earlier, 1)}

    def parameter_depths(self) -> dict[str, int]:
        """Depth of each encoder parameter, 0 at the input, for learning rates that decay with depth."""
        return self.encoder.parameter_depths("encoder.")

    def _pictures(self, batch: Batch, frames: Frames, hidden: Hidden) -> dict[str, Tensor]:
        """Log-mel of what is there, and with its bin's mean where a hidden step looks."""
        front_end = self.encoder.front_end
        if not isinstance(front_end, MelFrontEnd):
            front_end = MelFrontEnd(MelConfig(stack=1), self.sample_rate).to(self.device)
        mel = front_end.log_mel(batch["audio"])
        start = torch.arange(mel.shape[1], device=mel.device) * front_end.hop
        step = (start // self.encoder.front_end.field_and_step[1]).clamp_max(frames.width - 1)
        covered = hidden.mask[:, step, None]
        return {
            "original": mel,
            "perturbed": torch.where(covered, mel.mean(1, keepdim=True), mel),
            "hidden": hidden.mask,
            "lengths": frames.lengths,
            "mel_lengths": frame_counts(batch["length"], (front_end.window,), (front_end.hop,)),
        }


def _quarters(x: Float[Tensor, "total dim"], frames: Frames) -> Float[Tensor, "batch _"]:
    return part_statistics(frames.put_back(x), frames.lengths, 4)


def locate(mask: Bool[Tensor, "batch width"], frames: Frames, most: int) -> Hidden:
    """The hidden frames of a mask; ``most`` bounds how many a recording has."""
    packed = frames.take(mask)
    if mask.is_cuda:
        # the number is not known to the host: as many as there can be, those left over being the last frame again
        room = min(len(packed), len(mask) * most)
        ids = torch.nonzero_static(packed, size=room, fill_value=len(packed) - 1)
        counted = torch.arange(room, device=mask.device) < packed.sum()
    else:
        ids = packed.nonzero()
        counted = torch.ones(len(ids), dtype=torch.bool)
    row, counts = frames.row[ids[:, 0]], mask.sum(1)
    rank = torch.arange(len(ids), device=mask.device) - (counts.cumsum(0) - counts)[row]
    slot = torch.where(counted, row * most + rank, len(mask) * most)
    return Hidden(mask, ids.T, counted, row, counts, slot, most)
