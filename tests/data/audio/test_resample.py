"""A resampled segment is the segment of the resampled whole."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sound_files import tone

from mmssl.data.audio.resample import (
    MOST_PHASES,
    _resampler,
    ratio,
    resample_blocks,
    resample_segment,
    resampled_length,
)

pytest.importorskip("torchaudio")
RATES = [8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 44_056]


@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.generate])
@given(
    rate=st.sampled_from(RATES),
    target=st.sampled_from([16_000, 8000]),
    frames=st.integers(1, 20_000),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    cuts=st.lists(st.integers(1, 20_000), max_size=4),
)
def test_segments_and_blocks_equal_the_whole(
    rate: int, target: int, frames: int, edges: tuple[float, float], cuts: list[int]
) -> None:
    sound = tone(frames / rate + 0.01, rate)[:frames, 0]
    down, up = ratio(rate, target)
    whole = _resampler(down, up)(torch.from_numpy(sound)).numpy() if down != up else sound
    length = resampled_length(frames, rate, target)
    assert len(whole) == length
    start, stop = sorted(int(edge * length) for edge in edges)
    asked = []

    def fetch(first: int, last: int) -> np.ndarray:
        assert 0 <= first <= last <= frames
        asked.append(last - first)
        return sound[first:last]

    found = resample_segment(fetch, frames, rate, target, start, stop)
    assert found.shape == (stop - start,)
    assert np.abs(found - whole[start:stop]).max(initial=0) < 2e-6
    blocks = np.split(sound, sorted(cut for cut in cuts if cut < frames))
    streamed = np.concatenate(list(resample_blocks(blocks, rate, target)))
    assert streamed.shape == whole.shape
    assert np.abs(streamed - whole).max() < 2e-6


@pytest.mark.parametrize("rate", RATES)
def test_a_segment_reads_little_more_than_itself(rate: int) -> None:
    down, _ = ratio(rate, 16_000)
    sound = np.zeros(20 * rate, np.float32)
    asked = []

    def fetch(first: int, last: int) -> np.ndarray:
        asked.append(last - first)
        return sound[first:last]

    resample_segment(fetch, len(sound), rate, 16_000, 100_000, 116_000)
    assert asked[0] <= rate + 4 * down + 200


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_usual_rates_are_exact(rate: int) -> None:
    down, up = ratio(rate, 16_000)
    assert down * 16_000 == up * rate


def test_odd_rates_keep_the_filter_small() -> None:
    for rate in (44_056, 15_999, 16_001, 7919, 250_007):
        down, up = ratio(rate, 16_000)
        assert up <= MOST_PHASES
        assert abs(down / up / (rate / 16_000) - 1) < 8e-4


def test_a_tone_keeps_its_pitch() -> None:
    time = np.arange(44_100) / 44_100
    sound = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    found = np.concatenate(list(resample_blocks([sound], 44_100, 16_000)))
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[200:-200].max() < 1e-3


def test_it_is_torchaudio_with_its_defaults() -> None:
    sound = torch.from_numpy(tone(0.5, 44_100)[:, 0])
    found = np.concatenate(list(resample_blocks([sound.numpy()], 44_100, 16_000)))
    import torchaudio

    # torchaudio's function makes its filter in single precision, its cached transform in double
    assert np.abs(found - torchaudio.functional.resample(sound, 44_100, 16_000).numpy()).max() < 2e-5
