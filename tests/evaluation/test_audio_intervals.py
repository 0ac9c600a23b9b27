"""Frames in stretches of recordings, against loops; and the raw input beside them."""

import numpy as np
import pytest
import torch

from mmssl.evaluation.features import extract
from mmssl.evaluation.intervals import IntervalSet, Stretches, encode_intervals, frames_between, moments, with_intervals
from mmssl.evaluation.log_mel import LogMel
from mmssl.nn import AudioEncoderConfig, MelConfig, TransformerConfig
from mmssl.predictors.best_rq import BestRQ, BestRQConfig


def tiny() -> BestRQ:
    torch.manual_seed(0)
    trunk = TransformerConfig(dim=16, depth=2, heads=2, mlp_dim=32, norm="pre")
    encoder = AudioEncoderConfig(trunk, MelConfig(mels=20, stack=2), position_kernel=4, position_groups=2)
    return BestRQ(BestRQConfig(encoder, codebooks=1, codebook_size=8)).eval()


def recordings() -> list[dict[str, torch.Tensor]]:
    """Two batches of two recordings, longest first."""
    torch.manual_seed(1)
    batches = []
    for first, lengths in ((0, (16_000, 9_000)), (2, (8_000, 8_000))):
        audio = torch.randn(2, max(lengths)) * 0.1
        for row, length in enumerate(lengths):
            audio[row, length:] = 0
        batches.append({
            "id": torch.tensor([first + 1, first]), "epoch": torch.zeros(2, dtype=torch.int64), "audio": audio,
            "length": torch.tensor(lengths),
        })  # fmt: skip
    return batches


@pytest.mark.parametrize("seed", range(4))
def test_frames_are_those_whose_middle_lies_inside(seed):
    random = np.random.default_rng(seed)
    field, step = (400, 320) if seed % 2 else (7, 3)
    frames = torch.tensor([1, 12, 40])
    row = torch.from_numpy(random.integers(3, size=200))
    edges = np.sort(random.integers(0, 45 * step, (200, 2)), 1)
    found = frames_between(row, torch.from_numpy(edges), frames, field, step)
    for number, (start, stop) in enumerate(edges.tolist()):
        middles = [frame * step + field / 2 for frame in range(int(frames[row[number]]))]
        inside = [frame for frame, middle in enumerate(middles) if start <= middle < stop]
        first, last = int(found.first[number]), int(found.stop[number])
        if inside:
            assert list(range(first, last)) == inside
        else:
            away = [abs(middle - (start + stop) / 2) for middle in middles]
            assert last == first + 1
            assert away[first] == pytest.approx(min(away), abs=0.5)


def test_moments_are_those_of_each_stretch():
    torch.manual_seed(0)
    x = torch.randn(3, 10, 4)
    stretches = Stretches(torch.tensor([2, 0, 0, 1]), torch.tensor([0, 3, 9, 2]), torch.tensor([10, 5, 10, 3]))
    mean, deviation = moments(x, stretches)
    for number, (row, first, stop) in enumerate(zip(*(part.tolist() for part in stretches), strict=True)):
        std, expected = torch.std_mean(x[row, first:stop], 0, correction=0)
        torch.testing.assert_close(mean[number], expected)
        torch.testing.assert_close(deviation[number], std, atol=1e-6, rtol=1e-5)


def test_parts_are_equal_and_never_empty():
    parts = Stretches(torch.tensor([0, 1]), torch.tensor([2, 5]), torch.tensor([10, 6])).parts(4)
    assert parts.row.tolist() == [0] * 4 + [1] * 4
    assert parts.first.tolist() == [2, 4, 6, 8, 5, 5, 5, 5]
    assert parts.stop.tolist() == [4, 6, 8, 10, 6, 6, 6, 6]


def test_features_of_stretches_are_means_of_frames_of_the_whole_recording():
    predictor = tiny()
    recording = torch.tensor([1, 0, 1, 2])
    samples = torch.tensor([[0, 10**9], [1600, 4800], [3200, 6400], [100, 7000]])
    targets = np.array([0, 1, 1, 0])
    samples_of = IntervalSet(with_intervals(lambda: iter(recordings()), recording, samples), targets, ("a", "b"))
    features, labels = extract(encode_intervals(predictor, layers=True), samples_of)
    assert features.keys() == {"mean", "quarters", "layer 1"}
    assert features["layer 1"].shape == features["quarters"].shape
    assert labels.tolist() == [0, 1, 1, 0]  # in the order of the batches: rows 1, 1, then 0, then 2
    batch = recordings()[0]
    states, lengths = predictor.encode_frames(batch)
    torch.testing.assert_close(features["mean"][0], states[0, : lengths[0]].mean(0), atol=1e-5, rtol=1e-4)
    centre = torch.arange(states.shape[1]) * 320 + 280  # windows of 560 samples
    inside = (centre >= 3200) & (centre < 6400)
    torch.testing.assert_close(features["mean"][1], states[0, inside].mean(0), atol=1e-5, rtol=1e-4)
    first, *_, last = states[0, inside].tensor_split([int(inside.sum()) * part // 4 for part in (1, 2, 3)])
    wanted = [part.mean(0) for part in (first, last)] + [part.std(0, unbiased=False) for part in (first, last)]
    width = states.shape[2]
    parts = features["quarters"][1].view(4, 2, width)
    found = [parts[0, 0], parts[3, 0], parts[0, 1], parts[3, 1]]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), atol=1e-4, rtol=1e-3)


def test_log_mel_of_a_recording_is_that_of_a_stretch_as_long_as_it():
    mel = LogMel(16_000, torch.device("cpu"))
    batch = recordings()[0]
    whole = mel(batch)["statistics"]
    assert whole.shape == (2, 4 * 2 * 80)
    rows = torch.tensor([0, 1])
    between = torch.stack([torch.zeros(2, dtype=torch.int64), batch["length"]], 1)
    torch.testing.assert_close(mel({**batch, "row": rows, "between": between})["statistics"], whole)
    alone = {name: values[1:, :9000] if values.ndim > 1 else values[1:] for name, values in batch.items()}
    torch.testing.assert_close(mel(alone)["statistics"][0], whole[1], atol=1e-5, rtol=1e-4)
