"""Other voices and microphones: what changes, by how much, and that it is a function of the recording alone."""

import math

import torch

from mmssl.masking import NoiseKey
from mmssl.perturbations.spectrogram import CUT, NARROW, NOISE, WARP, add_white_noise, vary_spectrogram

TOP = 2595 * math.log10(1 + 8000 / 700)


def key(count: int, epoch: int = 0) -> NoiseKey:
    return NoiseKey(5, torch.full((count,), epoch), torch.arange(count))


def test_strength_0_changes_nothing():
    mel = torch.randn(3, 7, 80, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vary_spectrogram(mel, key(3), TOP, 0.0), mel)
    audio = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(add_white_noise(audio, torch.tensor([50, 40, 30]), key(3), 0.0), audio)


def test_a_recording_varies_alike_in_any_batch_and_otherwise_in_another_epoch():
    mel = torch.randn(4, 7, 80, generator=torch.Generator().manual_seed(0))
    found = vary_spectrogram(mel, key(4), TOP)
    alone = vary_spectrogram(mel[2:3], NoiseKey(5, torch.tensor([0]), torch.tensor([2])), TOP)
    torch.testing.assert_close(alone[0], found[2])
    assert (vary_spectrogram(mel, key(4, epoch=1), TOP) - found).abs().amax((1, 2)).min() > 0.1


def test_a_peak_moves_as_far_as_a_vocal_tract_may_and_no_farther():
    """A narrow peak high up, where the mel scale is logarithmic: its frequency changes by at most WARP."""
    count, middle = 400, 60
    bins = torch.arange(80.0)
    mel = (20 * torch.exp(-(((bins - middle) / 2) ** 2))).expand(count, 1, 80)
    found = vary_spectrogram(mel, key(count), TOP)[:, 0]
    hertz = 700 * (10 ** (bins * TOP / 80 / 2595) - 1)
    ratio = hertz[found[:, :70].argmax(1)] / hertz[middle]
    assert ratio.max() < 1 + WARP + 0.06  # a bin is 4 % there
    assert ratio.min() > 1 / (1 + WARP) - 0.06
    assert ratio.max() > 1.08
    assert ratio.min() < 0.92


def test_some_recordings_lose_their_upper_band():
    count = 2000
    found = vary_spectrogram(torch.zeros(count, 1, 80), key(count), TOP)[:, 0]
    narrow = found[:, -1] < -9
    assert abs(float(narrow.float().mean()) - NARROW) < 0.05
    cut = (found[narrow] < -9).float().argmax(1)
    assert math.ceil(CUT[0] * 80) <= int(cut.min())
    assert int(cut.max()) <= math.ceil(CUT[1] * 80)


def test_white_noise_is_white_as_loud_as_said_and_not_behind_the_end():
    generator = torch.Generator().manual_seed(0)
    audio, length = torch.randn(200, 4000, generator=generator), torch.full((200,), 3000)
    audio[:, 3000:] = 0
    noise = add_white_noise(audio, length, key(200)) - audio
    assert (noise[:, 3000:] == 0).all()
    decibel = 20 * (audio[:, :3000].std(1) / noise[:, :3000].std(1)).log10()
    assert NOISE[0] - 0.5 < float(decibel.min()) < NOISE[0] + 1
    assert NOISE[1] - 1 < float(decibel.max()) < NOISE[1] + 0.5
    power = torch.fft.rfft(noise[:, :3000] / noise[:, :3000].std(1, keepdim=True)).abs().square().mean(0)[1:]
    quarters = power[: len(power) // 4 * 4].view(4, -1).mean(1)
    assert (quarters / quarters.mean() - 1).abs().max() < 0.05
