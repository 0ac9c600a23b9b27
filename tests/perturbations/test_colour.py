"""Colour against scikit-image and Pillow, classes of colour against brute force and the paper's formulas."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color
from torch import Tensor

from mmssl.errors import UserError
from mmssl.perturbations.colour import (
    AbQuantizer,
    ab_bins,
    grey,
    lab_to_srgb,
    luma,
    rebalancing,
    smooth_prior,
    srgb_to_lab,
    within_srgb,
)


@pytest.fixture(scope="module")
def quantizer() -> AbQuantizer:
    return AbQuantizer()


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def cube(levels: int) -> Tensor:
    """All colours of so many levels a channel, ``[1, 3, levels^2, levels]``."""
    axis = torch.linspace(0, 1, levels, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis, axis).T.reshape(1, 3, levels * levels, levels)


def last(planes: Tensor) -> np.ndarray:
    """Channels last, as scikit-image has them."""
    return planes.movedim(1, -1).numpy()


def test_lab_is_that_of_scikit_image():
    """Its white point is rounded differently, which is 0.005 units."""
    rgb = cube(17)
    np.testing.assert_allclose(last(srgb_to_lab(rgb)), color.rgb2lab(last(rgb)), atol=0.006)


def test_colours_of_lab_are_those_of_scikit_image_also_beyond_the_gamut():
    lightness, ab = (torch.linspace(*ends, 13, dtype=torch.float64) for ends in ((0, 100), (-110, 110)))
    lab = torch.cartesian_prod(lightness, ab, ab).T.reshape(1, 3, 169, 13)
    with pytest.warns(UserWarning, match="negative Z"):
        expected = color.lab2rgb(last(lab))
    found = last(lab_to_srgb(lab))
    assert 0 <= found.min() <= found.max() <= 1
    # where Z is negative scikit-image cuts it off before the other matrix
    y = (lab[:, 0] + 16) / 116
    positive = (y - lab[:, 2] / 200 > 0.01).numpy()
    assert positive.mean() > 0.5
    np.testing.assert_allclose(found[positive], expected[positive], atol=2e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_colours_come_back(dtype, tolerance):
    rgb = cube(17).to(dtype)
    torch.testing.assert_close(lab_to_srgb(srgb_to_lab(rgb)), rgb, rtol=0, atol=tolerance)


def test_greys_have_no_colour_and_white_has_lightness_100():
    lab = srgb_to_lab(torch.linspace(0, 1, 256).expand(1, 3, 1, 256))
    assert lab[:, 1:].abs().max() < 1e-4
    assert float(lab[0, 0, 0, 0]) == pytest.approx(0, abs=1e-4)
    assert float(lab[0, 0, 0, -1]) == pytest.approx(100, abs=1e-4)
    assert (lab[0, 0, 0].diff() > 0).all()


def test_gradients_are_finite_at_black_white_and_outside():
    rgb = torch.tensor([0.0, 1.0, -0.2, 1.3, 1e-9]).expand(1, 3, 1, 5).clone().requires_grad_()
    srgb_to_lab(rgb).sum().backward()
    assert rgb.grad.isfinite().all()
    lab = torch.tensor([[0.0, 0, 0], [100, 0, 0], [50, 110, -110], [-3, 5, 5]]).T.reshape(1, 3, 1, 4).requires_grad_()
    lab_to_srgb(lab).sum().backward()
    assert lab.grad.isfinite().all()


def test_lab_is_exact_under_autocast():
    rgb = noise(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(srgb_to_lab(rgb), srgb_to_lab(rgb.clone()))
        torch.testing.assert_close(lab_to_srgb(srgb_to_lab(rgb)), rgb, rtol=0, atol=1e-5)


def test_luma_is_that_of_scikit_image_and_grey_that_of_pillow():
    rgb = cube(16)
    expected = color.rgb2ycbcr(last(rgb))[..., 0] / 255
    np.testing.assert_allclose(luma(rgb)[:, 0].numpy(), expected, atol=1e-12)
    pixels = (last(rgb)[0] * 255).round().astype(np.uint8)
    pillow = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_allclose(255 * grey(rgb)[0, 0].numpy(), pillow, atol=0.51)


def test_one_channel_is_its_own_luma_and_other_numbers_have_none():
    one = noise(2, 1, 3, 4)
    assert torch.equal(luma(one), one)
    assert torch.equal(grey(one), one)


@pytest.mark.parametrize("channels", [2, 4])
def test_pictures_with_transparency_are_refused(channels):
    for function in (luma, grey):
        with pytest.raises(UserError, match=f"{channels} channels: convert them to RGB"):
            function(noise(1, channels, 2, 2))


def test_bins_are_the_cells_that_colours_fall_into():
    """Colours of the whole cube, inside too, by scikit-image: each has its bin, and nearly all bins are found so."""
    bins = {tuple(row) for row in ab_bins().tolist()}
    ab = color.rgb2lab(last(cube(64)))[..., 1:].reshape(-1, 2)
    found = {tuple(row) for row in (10 * np.unique(np.round(ab / 10), axis=0)).tolist()}
    assert found <= bins
    assert len(bins - found) <= 2  # corners of cells that only finer levels reach
    assert len(bins) == 261
    assert (0.0, 0.0) in bins


@pytest.mark.parametrize("step", [4.0, 25.0])
def test_every_colour_has_a_bin_within_half_a_diagonal(step):
    ab = srgb_to_lab(cube(20))[0, 1:].flatten(1).T.float()
    distance = torch.cdist(ab, ab_bins(step)).amin(1)
    assert distance.max() <= step / 2**0.5 + 1e-3


@pytest.mark.parametrize(("step", "neighbours"), [(10.0, 5), (10.0, 1), (20.0, 9)])
def test_soft_classes_are_those_of_brute_force(step, neighbours):
    """Over the whole cube, whose faces are the edge of the gamut: nearest ones, and Gaussian weights in float64."""
    quantizer = AbQuantizer(step, neighbours, sigma=step / 2)
    ab = srgb_to_lab(cube(15))[:, 1:].float()
    ids, weights = quantizer.soft(ab)
    assert ids.shape == weights.shape == (1, neighbours, 15 * 15, 15)
    points = ab.flatten(2)[0].T.double().numpy()
    distance = np.linalg.norm(points[:, None] - ab_bins(step).double().numpy(), axis=2)
    chosen = np.take_along_axis(distance, ids.flatten(2)[0].T.numpy(), 1)
    nearest = np.sort(distance, 1)[:, :neighbours]
    np.testing.assert_allclose(chosen, nearest, atol=1e-4)
    expected = np.exp(-(nearest**2) / (2 * (step / 2) ** 2))
    np.testing.assert_allclose(weights.flatten(2)[0].T.numpy(), expected / expected.sum(1, keepdims=True), atol=1e-4)
    assert (np.diff(chosen, axis=1) >= -1e-4).all()
    assert all(len(set(row)) == neighbours for row in ids.flatten(2)[0].T.tolist())


def test_decoding_is_the_annealed_mean_of_the_paper(quantizer):
    logits = 3 * torch.randn(2, len(quantizer.bins), 2, 3, generator=torch.Generator().manual_seed(0))
    z = logits.double().softmax(1)
    for temperature in (0.38, 1.0):
        power = (z.log() / temperature).exp()
        expected = torch.einsum("nqhw,qc->nchw", power / power.sum(1, keepdim=True), quantizer.bins.double())
        torch.testing.assert_close(quantizer.decode(logits, temperature), expected.float(), rtol=0, atol=1e-3)
    mode = quantizer.bins[logits.argmax(1)].permute(0, 3, 1, 2)
    torch.testing.assert_close(quantizer.decode(logits, 1e-3), mode, rtol=0, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.decode(logits), quantizer.decode(logits.clone()))
        assert quantizer.decode(logits).dtype == torch.float32


def test_colours_survive_classes_and_back(quantizer):
    """Soft classes keep where a colour lies between the bins: decoded, it is nearer than a bin's half diagonal."""
    ab = srgb_to_lab(cube(16))[:, 1:].float()
    ids, weights = quantizer.soft(ab)
    share = torch.zeros(1, len(quantizer.bins), *ab.shape[2:]).scatter_(1, ids, weights)
    back = quantizer.decode(share.clamp_min(1e-30).log(), temperature=1.0)
    error = (back - ab).norm(dim=1)
    assert error.mean() < 1.5
    assert error.max() < 7.1
    hard = quantizer.bins[ids[:, 0]].permute(0, 3, 1, 2)
    assert error.mean() < 0.5 * (hard - ab).norm(dim=1).mean()


def test_the_quantizer_has_nothing_to_learn_or_to_save(quantizer):
    assert not list(quantizer.parameters())
    assert not quantizer.state_dict()


def test_the_prior_is_smoothed_by_the_gaussian_between_bins():
    bins = ab_bins().double().numpy()
    counts = np.zeros(len(bins))
    counts[[0, 100, 101, len(bins) - 1]] = 1, 10, 4, 5
    expected = np.zeros(len(bins))
    for source in np.flatnonzero(counts):
        kernel = np.array([np.exp(-((bins[source] - other) ** 2).sum() / 50) for other in bins])
        expected += counts[source] * kernel / kernel.sum()
    found = smooth_prior(torch.from_numpy(counts).float())
    np.testing.assert_allclose(found.numpy(), expected / 20, atol=1e-6)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)


def test_without_counts_all_colours_are_equally_likely():
    prior = smooth_prior(torch.zeros(len(ab_bins())))
    torch.testing.assert_close(prior, torch.full_like(prior, 1 / len(prior)))


def test_rebalancing_favours_the_rare_and_has_mean_1():
    prior = torch.tensor([0.7, 0.2, 0.1, 0.0])
    weight = rebalancing(prior)
    raw = 1 / (0.5 * prior + 0.5 / 4)
    torch.testing.assert_close(weight / weight[0], raw / raw[0])
    for mix in (0.1, 0.5, 1.0):
        assert float((prior * rebalancing(prior, mix)).sum()) == pytest.approx(1, abs=1e-6)
    assert (weight.diff() > 0).all()
    torch.testing.assert_close(rebalancing(prior, 1.0), torch.ones(4))
    assert rebalancing(prior, 0.0).isfinite().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ab_bins(1.0), "step of colour classes must be between 4 and 50 .* got 1.0"),
        (lambda: ab_bins(float("nan")), "got nan"),
        (lambda: AbQuantizer(50.0, 500), "neighbours must be between 1 and the 19 "),
        (lambda: AbQuantizer(sigma=0.0), "sigma of colour classes must be above 0"),
        (lambda: AbQuantizer().decode(torch.zeros(1, 261, 1, 1), 0.0), "temperature must be above 0"),
        (lambda: rebalancing(torch.ones(2) / 2, 1.5), "mix .* between 0 and 1, got 1.5"),
        (lambda: smooth_prior(torch.ones(313)), "313 counts given for the 261 colour classes of step 10"),
    ],
)
def test_values_out_of_range_are_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_colours_that_srgb_lacks_become_paler_and_keep_lightness_and_hue():
    """Against scikit-image: inside nothing changes, outside the result touches the gamut's edge."""
    generator = torch.Generator().manual_seed(0)
    inside = srgb_to_lab(torch.rand(1, 3, 20, 20, generator=generator))
    torch.testing.assert_close(within_srgb(inside), inside)
    wild = torch.rand(1, 3, 20, 20, generator=generator) * torch.tensor([100, 200, 200])[:, None, None]
    wild = wild - torch.tensor([0, 100, 100])[:, None, None]
    tame = within_srgb(wild)
    torch.testing.assert_close(tame[:, 0], wild[:, 0])
    share = tame[:, 1:].norm(dim=1) / wild[:, 1:].norm(dim=1)
    assert share.max() <= 1 + 1e-6
    torch.testing.assert_close(tame[:, 1:], wild[:, 1:] * share[:, None], rtol=1e-3, atol=1e-3)
    back = torch.from_numpy(color.rgb2lab(lab_to_srgb(tame)[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)
    torch.testing.assert_close(back.float(), tame[0], rtol=0, atol=0.2)
    a_little_more = torch.cat([tame[:, :1], tame[:, 1:] * (1 + 2 / 256 / share[:, None])], 1)
    lost = (srgb_to_lab(lab_to_srgb(a_little_more)) - a_little_more).abs().amax(1)
    assert (lost[share < 0.99] > 0.02).float().mean() > 0.95
