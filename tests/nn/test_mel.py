"""Stacked log-mel frames: each from its own window, normalised by real frames alone."""

import math

import pytest
import torch

from mmssl.errors import UserError
from mmssl.nn import Frames, MelConfig
from mmssl.nn.mel import MelFrontEnd

pytest.importorskip("torchaudio")

LENGTHS = [4000, 3210, 1500, 900, 880, 200]


def run(front_end: MelFrontEnd, audio: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, Frames]:
    frames = Frames.of(front_end.frames(length), int(front_end.frames(torch.tensor([audio.shape[1]]))))
    return front_end(audio, length, frames), frames


def recordings(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    audio = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    length = torch.tensor(lengths)
    return torch.where(torch.arange(audio.shape[1]) < length[:, None], audio, 0), length


@pytest.mark.parametrize("statistics", ["recording", "data"])
@pytest.mark.parametrize("stack", [1, 4])
def test_a_recording_is_the_same_alone_and_among_longer_ones(statistics, stack):
    front_end = MelFrontEnd(MelConfig(mels=20, stack=stack, statistics=statistics), 16_000)
    audio, length = recordings(LENGTHS)
    if statistics == "data":
        front_end.observe(front_end.statistics(audio, length))
    x, frames = run(front_end, audio, length)
    padded = frames.put_back(x)
    assert frames.lengths.tolist() == [max((n - 400) // 160 + 1, 0) // stack for n in LENGTHS]
    for row, samples in enumerate(LENGTHS[:4]):
        alone, _ = run(front_end, audio[row : row + 1, :samples], length[row : row + 1])
        torch.testing.assert_close(padded[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_each_bin_of_a_recording_has_mean_0_and_variance_1():
    front_end = MelFrontEnd(MelConfig(mels=20, stack=1), 16_000)
    x, frames = run(front_end, *recordings([4000, 3000]))
    first = x[: int(frames.lengths[0])]
    torch.testing.assert_close(first.mean(0), torch.zeros(20), rtol=0, atol=1e-4)
    torch.testing.assert_close(first.std(0, unbiased=False), torch.ones(20), rtol=0, atol=1e-3)


def test_statistics_of_the_data_add_up_over_batches():
    front_end = MelFrontEnd(MelConfig(mels=20, stack=2, statistics="data"), 16_000)
    audio, length = recordings([4000, 4000, 2000])
    parts = [front_end.statistics(audio[row : row + 1], length[row : row + 1]) for row in range(3)]
    front_end.observe(torch.stack(parts).sum(0))
    x, _ = run(front_end, audio, length)
    assert abs(float(x.mean())) < 0.05
    assert float(x.std()) == pytest.approx(1, abs=0.05)


def test_a_tone_lights_its_bin_and_stacking_keeps_the_order_of_frames():
    front_end = MelFrontEnd(MelConfig(mels=40, stack=2), 16_000)
    time = torch.arange(8000) / 16_000
    tone = torch.where(time < 0.25, (2 * math.pi * 500 * time).sin(), (2 * math.pi * 3000 * time).sin())[None]
    mel = front_end.log_mel(tone)[0]
    low, high = int(mel[5].argmax()), int(mel[-5].argmax())
    step = 2840 / 41  # 8,000 Hz are 2,840 mel
    assert low == round(2595 * math.log10(1 + 500 / 700) / step) - 1
    assert high == round(2595 * math.log10(1 + 3000 / 700) / step) - 1
    x, _ = run(front_end, tone, torch.tensor([8000]))
    flat = x.view(-1, 40)
    assert flat[:, low].argmax() < len(flat) // 2 < flat[:, high].argmax()


def test_silence_is_finite():
    front_end = MelFrontEnd(MelConfig(), 16_000)
    x, _ = run(front_end, torch.zeros(1, 4000), torch.tensor([4000]))
    assert x.abs().max() < 0.01


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_no_filter_is_empty_at_usual_rates(rate):
    front_end = MelFrontEnd(MelConfig(), rate)
    assert (front_end.spectrogram.mel_scale.fb.sum(0) > 0).all()


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="too many for"):
        MelFrontEnd(MelConfig(mels=200), 16_000)
    with pytest.raises(UserError, match="hop"):
        MelConfig(hop=0.1)
    with pytest.raises(UserError, match="less than a sample"):
        MelFrontEnd(MelConfig(mels=2, window=0.01, hop=1e-5), 16_000)


def test_prior_seconds_stand_for_that_much_average_data():
    """As if the recording had gone on: its frames and the data's own, taken as one set."""
    front_end = MelFrontEnd(MelConfig(mels=20, stack=1, prior_seconds=0.23), 16_000)
    data, data_length = recordings([400 + 22 * 160])  # 23 frames, which are the prior in full
    front_end.observe(front_end.statistics(data, data_length))
    audio, length = recordings([4000])
    audio = 3 * audio.flip(1)
    found, _ = run(front_end, audio, length)
    mel = front_end.log_mel(audio)[0]
    both = torch.cat([mel, front_end.log_mel(data)[0]])
    torch.testing.assert_close(found, (mel - both.mean(0)) / both.std(0, unbiased=False), rtol=1e-3, atol=1e-3)


def test_cepstra_are_those_of_scipy():
    fft = pytest.importorskip("scipy.fft")
    front_end = MelFrontEnd(MelConfig(mels=20, stack=2), 16_000)
    audio, length = recordings([4000, 2000])
    frames = Frames.of(front_end.frames(length), int(front_end.frames(torch.tensor([4000]))))
    mel = front_end.log_mel(audio)
    found = front_end.cepstra(mel, length, frames, 6)
    real = (4000 - 400) // 160 + 1
    written = torch.from_numpy(fft.dct(mel[0, :real].double().numpy(), axis=1)[:, :6])
    written = (written - written.mean(0)) / written.std(0, unbiased=False)
    steps = int(frames.lengths[0])
    torch.testing.assert_close(found[:steps].double(), written[: 2 * steps].reshape(steps, 12), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("changes", [{"prior_seconds": -1.0}, {"prior_seconds": 1.0, "statistics": "data"}])
def test_impossible_priors_are_refused(changes):
    with pytest.raises(UserError, match="prior_seconds"):
        MelConfig(**changes)
