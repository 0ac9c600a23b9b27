"""The convolutions of wav2vec 2.0: equal to transformers' in value and gradient, and padding changes nothing."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.nn import Frames, WaveformConfig
from mmssl.nn.frames import frame_counts, receptive_field
from mmssl.nn.strided import strided_convolution
from mmssl.nn.waveform import WaveformFrontEnd

LENGTHS = [[5000, 5000], [5000, 3333, 1999, 400, 399]]


def recordings(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    audio = 0.3 + 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    length = torch.tensor(lengths)
    return torch.where(torch.arange(audio.shape[1]) < length[:, None], audio, 0), length


def run(front_end: WaveformFrontEnd, audio: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, Frames]:
    frames = Frames.of(front_end.frames(length), int(front_end.frames(torch.tensor([audio.shape[1]]))))
    return front_end(audio, length, frames), frames


def pair(norm: str, **changes) -> tuple[WaveformFrontEnd, torch.nn.Module]:
    """Ours, and transformers' with the same weights."""
    modeling = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    torch.manual_seed(0)
    bias = norm == "layer"
    ours = WaveformFrontEnd(WaveformConfig(dim=16, norm=norm, bias=bias, normalize=False, **changes))
    theirs = modeling.Wav2Vec2FeatureEncoder(
        modeling.Wav2Vec2Config(conv_dim=(16,) * 7, feat_extract_norm=norm, conv_bias=bias)
    )
    with torch.no_grad():
        for number, layer in enumerate(theirs.conv_layers):
            for parameter in layer.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            ours.convolutions[number].load_state_dict(layer.conv.state_dict())
            if number < len(ours.norms):
                ours.norms[number].load_state_dict(layer.layer_norm.state_dict())
    return ours, theirs


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_frames_and_gradients_equal_those_of_transformers(norm, lengths):
    ours, theirs = pair(norm, group_norm_over="row")
    audio, length = recordings(lengths)
    x, frames = run(ours, audio, length)
    expected = frames.take(theirs(audio).transpose(1, 2))
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(x)
    (x * weights).sum().backward()
    (expected * weights).sum().backward()
    for number, layer in enumerate(theirs.conv_layers):
        for name, parameter in ours.convolutions[number].named_parameters():
            gradient = layer.conv.get_parameter(name).grad
            assert (parameter.grad - gradient).norm() < 1e-4 * gradient.norm() + 1e-6
        if number < len(ours.norms):
            gradient = layer.layer_norm.weight.grad
            assert (ours.norms[number].weight.grad - gradient).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_recording_is_the_same_alone_and_among_longer_ones(norm, normalize):
    front_end = WaveformFrontEnd(WaveformConfig(dim=8, norm=norm, normalize=normalize))
    audio, length = recordings(LENGTHS[1])
    x, frames = run(front_end, audio, length)
    padded = frames.put_back(x)
    for row, samples in enumerate(LENGTHS[1][:-1]):
        alone, _ = run(front_end, audio[row : row + 1, :samples], length[row : row + 1])
        torch.testing.assert_close(padded[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)
        assert (padded[row, len(alone) :] == 0).all()


def test_group_norm_over_rows_depends_on_padding_as_published():
    """What complaints about padding are about; the default averages over the recording."""
    front_end = WaveformFrontEnd(WaveformConfig(dim=8, group_norm_over="row", normalize=False))
    audio, length = recordings([5000, 3000])
    x, frames = run(front_end, audio, length)
    alone, _ = run(front_end, audio[1:, :3000], length[1:])
    assert not torch.allclose(frames.put_back(x)[1, : len(alone)], alone, atol=1e-3)


def test_what_lies_behind_the_end_and_in_other_recordings_is_not_heard():
    front_end = WaveformFrontEnd(WaveformConfig(dim=8, normalize=False))
    audio, length = recordings([5000, 3000])
    x, frames = run(front_end, audio, length)
    audio[0] = torch.randn(5000)
    y, _ = run(front_end, audio, length)
    assert torch.equal(frames.put_back(x)[1], frames.put_back(y)[1])
    last = int(frames.lengths[1])
    field, step = front_end.field_and_step
    assert (last - 1) * step + field <= 3000 < last * step + field


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (7, 3), (2, 3), (10, 2), (1, 1)])
def test_strided_products_are_convolutions(kernel, stride, bf16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6 * stride, 5, generator=generator, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(4, 5, kernel, generator=generator, requires_grad=True)
    bias = torch.randn(4, generator=generator, requires_grad=True)
    padded = F.pad(x.T[None], (0, max(kernel - stride, 0)))
    expected = F.conv1d(padded, weight, bias, stride)[0].T[:6]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = strided_convolution(x, weight, bias, stride)
    assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
    tolerance = 0.1 if bf16 else 1e-5
    torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)
    grad = torch.randn(expected.shape, generator=generator)
    ours = torch.autograd.grad(y, (x, weight, bias), grad.to(y.dtype))
    for one, other in zip(ours, torch.autograd.grad(expected, (x, weight, bias), grad), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=3 * tolerance)


def test_published_arithmetic():
    config = WaveformConfig()
    assert receptive_field(config.kernels, config.strides) == (400, 320)
    samples = torch.tensor([0, 399, 400, 719, 720, 16_000, 64_000])
    assert frame_counts(samples, config.kernels, config.strides).tolist() == [0, 0, 1, 1, 2, 49, 199]


def test_silence_has_finite_frames_and_gradients():
    front_end = WaveformFrontEnd(WaveformConfig(dim=8))
    x, _ = run(front_end, torch.zeros(1, 2000), torch.tensor([2000]))
    x.sum().backward()
    assert x.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in front_end.parameters())


def test_impossible_shapes_are_refused():
    with pytest.raises(UserError, match="must be as many"):
        WaveformConfig(kernels=(10, 3))
    with pytest.raises(UserError, match="at least 1"):
        WaveformConfig(dim=0)


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_gpu_gets_the_same_frames(norm):
    front_end = WaveformFrontEnd(WaveformConfig(dim=16, norm=norm))
    audio, length = recordings(LENGTHS[1])
    x, frames = run(front_end, audio, length)
    there, where = run(front_end.cuda(), audio.cuda(), length.cuda())
    torch.testing.assert_close(where.put_back(there).cpu(), frames.put_back(x), rtol=1e-3, atol=1e-4)
