"""The quantizer: hard forward, soft backward, no chance where nothing is trained."""

import math

import pytest
import torch

from mmssl.errors import UserError
from mmssl.masking import NoiseKey
from mmssl.nn import GumbelQuantizer, QuantizerConfig
from mmssl.nn.quantizer import gumbel, perplexity, usage


def make(groups: int = 2, entries: int = 8, dim: int = 6) -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(QuantizerConfig(groups, entries, dim), 5)


def noise_for(frames: int, entries: int = 8) -> torch.Tensor:
    key = NoiseKey(0, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return gumbel(key.uniform(frames * 2 * entries)).view(frames, 2, entries)


def test_a_code_is_the_chosen_entries_side_by_side():
    quantizer = make()
    quantized = quantizer(torch.randn(10, 5), noise_for(10), 2.0)
    for frame in range(10):
        expected = torch.cat([quantizer.codebook[group, quantized.entry[frame, group]] for group in range(2)])
        torch.testing.assert_close(quantized.code[frame], expected, rtol=0, atol=0)


def test_the_gradient_is_that_of_the_softmax_and_reaches_everything():
    """A quantizer once detached too much and learned nothing (fairseq2, pull request 731)."""
    quantizer, frames, noise = make(), torch.randn(10, 5, requires_grad=True), noise_for(10)
    quantized = quantizer(frames, noise, 0.7)
    weights = torch.randn_like(quantized.code)
    (quantized.code * weights).sum().backward()
    ours = [frames.grad.clone(), quantizer.logits.weight.grad.clone(), quantizer.codebook.grad.clone()]

    logits = quantizer.logits(frames).view(10, 2, 8)
    soft = ((logits + noise) / 0.7).softmax(-1)
    relaxed = torch.einsum("fgv,gvd->fgd", soft, quantizer.codebook.detach()).flatten(1)
    expected = torch.autograd.grad((relaxed * weights).sum(), [frames, quantizer.logits.weight])
    for one, other in zip(ours[:2], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert all((gradient != 0).any() for gradient in ours)
    hit = torch.zeros(2, 8, dtype=torch.bool)
    hit[torch.arange(2), quantized.entry] = True
    assert torch.equal((ours[2] != 0).any(-1), hit)


def test_it_equals_transformers():
    modeling = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    config = modeling.Wav2Vec2Config(
        num_codevectors_per_group=8, num_codevector_groups=2, codevector_dim=6, conv_dim=(5,) * 7
    )
    theirs, ours = modeling.Wav2Vec2GumbelVectorQuantizer(config).eval(), make()
    with torch.no_grad():
        theirs.weight_proj.load_state_dict(ours.logits.state_dict())
        theirs.codevectors.copy_(ours.codebook.flatten(0, 1)[None])
        frames, mask = torch.randn(1, 30, 5), torch.rand(1, 30) < 0.5
        code, used = theirs(frames, mask)
        quantized = ours(frames[0])
    torch.testing.assert_close(quantized.code, code[0])
    torch.testing.assert_close(perplexity(usage(quantized.entry, 8, mask[0].float())), used)


def test_without_noise_the_choice_is_the_likeliest_and_always_the_same():
    quantizer, frames = make(), torch.randn(20, 5)
    first, second = quantizer(frames), quantizer(frames)
    assert torch.equal(first.entry, second.entry)
    assert torch.equal(first.entry, quantizer.logits(frames).view(20, 2, 8).argmax(-1))


def test_noise_chooses_by_the_softmax():
    quantizer = make(entries=4)
    frame = torch.randn(1, 5)
    with torch.no_grad():
        quantizer.logits.weight.mul_(0.5)
        quantized = quantizer(frame.expand(20_000, 5), noise_for(20_000, 4), 2.0)
    shares = usage(quantized.entry, 4, torch.ones(20_000))
    # three standard errors of a share
    torch.testing.assert_close(shares, quantized.soft[0], rtol=0, atol=0.011)


def test_gumbel_noise_is_finite_at_both_ends():
    ends = gumbel(torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-24]))
    assert ends.isfinite().all()
    assert float(ends[2]) == pytest.approx(-math.log(math.log(2)))


def test_perplexity_counts_entries_in_use():
    assert float(perplexity(torch.full((2, 8), 1 / 8))) == pytest.approx(16)
    collapsed = torch.zeros(2, 8)
    collapsed[:, 3] = 1
    assert float(perplexity(collapsed)) == pytest.approx(2)
    entry = torch.tensor([[0, 1], [0, 2], [5, 1]])
    shares = usage(entry, 8, torch.tensor([1.0, 1.0, 0.0]))
    assert shares[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert shares[1].tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0]


def test_impossible_codebooks_are_refused():
    with pytest.raises(UserError, match="at least 1 group and 2 entries"):
        QuantizerConfig(entries=1)
    with pytest.raises(UserError, match="not divisible by its 3 groups"):
        QuantizerConfig(groups=3)
