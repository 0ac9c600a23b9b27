"""Positions from neighbouring frames: as in transformers, and nothing leaks."""

import pytest
import torch

from mmssl.nn import Frames
from mmssl.nn.convolutional_positions import ConvolutionalPositions

LENGTHS = [30, 30, 17, 1]


def layout(lengths: list[int]) -> Frames:
    return Frames.of(torch.tensor(lengths), max(lengths))


@pytest.mark.parametrize(("kernel", "dim"), [(8, 16), (7, 16), (128, 16), (8, 80), (7, 80)])
def test_it_equals_transformers(kernel, dim):
    modeling = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    config = modeling.Wav2Vec2Config(hidden_size=dim, num_conv_pos_embeddings=kernel, num_conv_pos_embedding_groups=4)
    theirs, ours = modeling.Wav2Vec2PositionalConvEmbedding(config), ConvolutionalPositions(dim, kernel, 4)
    with torch.no_grad():
        inner = theirs.conv.parametrizations.weight
        inner.original0.uniform_(0.5, 1.5)
        theirs.conv.bias.uniform_()
        ours.direction.copy_(inner.original1)
        ours.length.copy_(inner.original0.flatten())
        ours.bias.copy_(theirs.conv.bias)
    frames = layout(LENGTHS)
    x = torch.randn(sum(LENGTHS), dim)
    expected, y = frames.take(theirs(frames.put_back(x))), ours(x, frames)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.direction.grad, inner.original1.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.length.grad, inner.original0.grad.flatten(), rtol=1e-3, atol=1e-3)


def test_nothing_leaks_from_one_recording_to_the_next():
    positions, frames = ConvolutionalPositions(8, 16, 2), layout(LENGTHS)
    x = torch.randn(sum(LENGTHS), 8)
    together = positions(x, frames).split(LENGTHS)
    for row, part in enumerate(x.split(LENGTHS)):
        alone = positions(part, layout([len(part)]))
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-6)


def test_frames_go_to_rows_and_back():
    frames = layout(LENGTHS)
    x = torch.randn(sum(LENGTHS), 3)
    rows = frames.put_back(x)
    assert rows.shape == (4, 30, 3)
    assert (rows[~frames.real] == 0).all()
    assert torch.equal(frames.take(rows), x)
    torch.testing.assert_close(frames.means(x)[2], rows[2, :17].mean(0))
    assert frames.row.tolist() == [row for row, length in enumerate(LENGTHS) for _ in range(length)]
