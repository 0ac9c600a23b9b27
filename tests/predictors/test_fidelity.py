"""PSNR and SSIM against scikit-image, and against scipy where only a hole counts."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from mmssl.errors import UserError
from mmssl.predictors.fidelity import CEILING, psnr, ssim

PAPER = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
"""Settings with which scikit-image follows Wang et al. 2004."""


def pair(*shape: int, error: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A prediction and a target with structure in them: smooth noise, and less smooth noise on it."""
    random = np.random.default_rng(seed)
    target = gaussian_filter(random.random(shape), (0, 0, 1, 1))
    prediction = gaussian_filter(target, (0, 0, 0.7, 0.7)) + error * random.standard_normal(shape)
    return torch.from_numpy(prediction).float(), torch.from_numpy(target).float()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (24, 40), (33, 12)])
@pytest.mark.parametrize("border", [0, 4])
def test_both_are_those_of_scikit_image(channels, size, border):
    prediction, target = pair(3, channels, size[0] + 2 * border, size[1] + 2 * border)
    cut = slice(border, -border or None)
    inside = [(one[:, cut, cut], other[:, cut, cut]) for one, other in zip(prediction, target, strict=True)]
    expected = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1) for a, b in inside]
    np.testing.assert_allclose(psnr(prediction, target, border=border), expected, rtol=1e-5)
    expected = [structural_similarity(b.double().numpy(), a.double().numpy(), **PAPER) for a, b in inside]
    np.testing.assert_allclose(ssim(prediction, target, border=border), expected, atol=1e-5)


def test_psnr_over_a_hole_counts_its_pixels_alone():
    prediction, target = pair(2, 3, 12, 16)
    where = torch.rand(2, 1, 12, 16, generator=torch.Generator().manual_seed(0)) > 0.7
    for sample, found in enumerate(psnr(prediction, target, where)):
        pixels = where[sample, 0]
        error = (prediction[sample][:, pixels] - target[sample][:, pixels]).square().mean()
        assert float(found) == pytest.approx(-10 * float(error.log10()), abs=1e-4)
    elsewhere = torch.where(where, prediction, 7.0)
    torch.testing.assert_close(psnr(elsewhere, target, where), psnr(prediction, target, where))
    torch.testing.assert_close(
        psnr(prediction, target, where, border=3),
        psnr(prediction[..., 3:-3, 3:-3], target[..., 3:-3, 3:-3], where[..., 3:-3, 3:-3]),
    )


def test_ssim_over_a_hole_weighs_windows_by_what_of_them_lies_in_it():
    prediction, target = pair(2, 3, 30, 34)
    where = torch.zeros(2, 1, 30, 34, dtype=torch.bool)
    where[0, :, :8, 3:20] = where[1, :, 14:17, 30:] = True
    for sample, found in enumerate(ssim(prediction, target, where)):
        _, similarity = structural_similarity(
            target[sample].double().numpy(), prediction[sample].double().numpy(), full=True, **PAPER
        )
        weight = gaussian_filter(where[sample, 0].double().numpy(), 1.5, truncate=3.5)[5:-5, 5:-5]
        expected = (similarity.mean(0)[5:-5, 5:-5] * weight).sum() / weight.sum()
        assert float(found) == pytest.approx(expected, abs=1e-5)
    everywhere = torch.ones_like(where)
    torch.testing.assert_close(ssim(prediction, target, everywhere), ssim(prediction, target))


def test_a_hole_in_the_corner_counts():
    """No window has its middle there, but some reach it."""
    _, target = pair(1, 1, 20, 20)
    where = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    where[..., 0, 0] = True
    wrong = target.clone()
    wrong[..., :6, :6] = 1 - wrong[..., :6, :6]
    assert float(ssim(wrong, target, where)) < 0.9
    far = target.clone()
    far[..., 14:, 14:] = 1 - far[..., 14:, 14:]
    assert float(ssim(far, target, where)) == pytest.approx(1, abs=1e-6)


def test_identical_pictures_have_finite_values():
    _, target = pair(3, 3, 16, 16)
    assert psnr(target, target).tolist() == [CEILING] * 3
    assert ssim(target, target).tolist() == [1.0] * 3
    nowhere = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    assert psnr(target + 1, target, nowhere).tolist() == [CEILING] * 3
    assert ssim(target + 1, target, nowhere).tolist() == [1.0] * 3


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (10, 10), (3, 11), (2, 2)])
def test_pictures_smaller_than_the_window_have_a_similarity(size):
    _, target = pair(4, 3, *size)
    assert ssim(target, target).tolist() == [1.0] * 4
    other = ssim(1 - target, target)
    assert other.isfinite().all()
    assert (other < 1).all()


def test_a_single_pixel_is_compared_in_brightness():
    one, other = torch.tensor(0.2).view(1, 1, 1, 1), torch.tensor(0.6).view(1, 1, 1, 1)
    assert float(ssim(one, other)) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-6)


def test_samples_do_not_meet():
    prediction, target = pair(3, 3, 14, 20)
    for function in (psnr, ssim):
        alone = torch.cat([function(prediction[row : row + 1], target[row : row + 1]) for row in range(3)])
        torch.testing.assert_close(function(prediction, target), alone)


def test_autocast_changes_nothing():
    prediction, target = pair(2, 3, 16, 16)
    plain = psnr(prediction, target), ssim(prediction, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(psnr(prediction, target), plain[0])
        assert torch.equal(ssim(prediction, target), plain[1])


def test_less_similar_is_less():
    values = [[float(f(*pair(1, 3, 32, 32, error=error))) for error in (0.01, 0.05, 0.2)] for f in (psnr, ssim)]
    assert all(a > b > c for a, b, c in values)


def test_what_cannot_be_compared_is_refused():
    prediction, target = pair(2, 3, 12, 16)
    where = torch.ones(2, 1, 12, 8, dtype=torch.bool)
    for function in (psnr, ssim):
        with pytest.raises(UserError, match=r"\[2, 3, 12, 15\] and \[2, 3, 12, 16\] cannot be compared: give all"):
            function(prediction[..., 1:], target)
        with pytest.raises(UserError, match=r"cannot be compared at places of \[2, 1, 12, 8\]"):
            function(prediction, target, where)
        for border in (6, -1):
            with pytest.raises(UserError, match=f"border of {border} pixels leaves nothing of pictures of 12x16"):
                function(prediction, target, border=border)
