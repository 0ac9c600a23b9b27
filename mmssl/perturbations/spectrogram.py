"""Recordings as other people might have said them elsewhere: the variety that a few speakers and microphones lack.

Applied to input and target alike, in training only. A model that has heard one kind of channel is lost on another: one
pretrained on an hour of wide-band speech predicted telephone-band digits worse than a constant guess.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.masking import NoiseKey

STREAM_VARIATION, STREAM_WHITE = 0x76617279, 0x77686974

WARP = 0.16
"""Largest change of the length of the vocal tract; adults differ by a fifth (Lee & Rose 1998 search 0.88-1.12)."""
KNOTS, GAIN = 5, 0.7
"""Points along the frequency axis, and standard deviation at each of the log energy, 3 dB: rooms and microphones."""
NOISE = (10.0, 40.0)
"""Range in dB of the signal over white noise."""
NARROW, CUT, STOP_BAND = 0.6, (0.775, 0.875), 60.0
"""Share of recordings made narrow, where on the mel axis they end (telephone bands at 16 kHz), and dB beyond."""
MEL_SLOPE = 1127.0
"""Mel a unit of log frequency at high frequencies (the scale 2595 log10(1 + f / 700))."""


def add_white_noise(
    audio: Float[Tensor, "batch sample"], length: Int[Tensor, " batch"], key: NoiseKey, strength: float = 1.0
) -> Float[Tensor, "batch sample"]:
    """White noise 10 to 40 dB below each recording, uniform in dB; ``strength`` multiplies its amplitude."""
    real = torch.arange(audio.shape[1], device=audio.device) < length[:, None]
    loudness = (audio.square().sum(1) / length.clamp_min(1)).sqrt()
    low, high = NOISE
    decibel = low + (high - low) * key.uniform(1, STREAM_VARIATION)[:, 0]
    amplitude = strength * loudness * 10 ** (-decibel / 20)
    # uniform noise is as white as normal noise and needs no logarithm a sample
    white = (key.uniform(audio.shape[1], STREAM_WHITE) - 0.5) * math.sqrt(12)
    return audio + torch.where(real, white * amplitude[:, None], 0)


def vary_spectrogram(
    mel: Float[Tensor, "batch frame mel"], key: NoiseKey, top: float, strength: float = 1.0
) -> Float[Tensor, "batch frame mel"]:
    """Another vocal tract, another microphone, and often a narrower band, one draw a recording.

    The frequency axis is stretched as by another length of the vocal tract (Jaitly & Hinton 2013, "Vocal Tract Length
    Perturbation"), a smooth random filter added, and in a share of recordings the upper bins attenuated.

    Args:
        mel: logarithms of mel energies.
        top: frequency of the highest bin on the mel scale.
        strength: multiplies all changes; 0 changes nothing.
    """
    bins = mel.shape[2]
    draw = key.uniform(4 + 2 * KNOTS, STREAM_VARIATION)[:, 1:]  # the first is that of the noise
    shift = math.log1p(WARP) * MEL_SLOPE / top * bins * strength * (2 * draw[:, :1] - 1)
    mel = _shifted(mel, shift)
    # Box-Muller: two uniform numbers give a normal one
    radius = (-2 * (1 - draw[:, 3 : 3 + KNOTS]).log()).sqrt()
    gains = GAIN * strength * radius * torch.cos(2 * math.pi * draw[:, 3 + KNOTS :])
    mel = mel + F.interpolate(gains[:, None], bins, mode="linear", align_corners=True)
    start, stop = CUT
    cut = bins * (start + (stop - start) * draw[:, 1:2])
    beyond = (torch.arange(bins, device=mel.device) >= cut) & (draw[:, 2:3] < NARROW * strength)
    return mel - (STOP_BAND / 10 * math.log(10)) * beyond[:, None]


def _shifted(
    mel: Float[Tensor, "batch frame mel"], shift: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch frame mel"]:
    """Linear interpolation at bins moved by ``shift``, the outermost ones repeated."""
    bins = mel.shape[2]
    place = (torch.arange(bins, device=mel.device) + shift).clamp(0, bins - 1)
    lower = place.floor().clamp_max(max(bins - 2, 0))
    share, lower = (place - lower)[:, None], lower.long()
    upper = (lower + 1).clamp_max(bins - 1)
    below, above = (mel.gather(2, at[:, None].expand(mel.shape)) for at in (lower, upper))
    return below + share * (above - below)
