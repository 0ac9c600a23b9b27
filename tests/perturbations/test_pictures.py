"""What is taken from a picture cannot be read from what is left; what is left is what it is said to be."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from mmssl.errors import UserError
from mmssl.masking import NoiseKey
from mmssl.perturbations.colour import grey, srgb_to_lab
from mmssl.perturbations.fill import interpolate_hidden
from mmssl.perturbations.pictures import (
    EXAMPLES,
    Blur,
    Downsample,
    Grey,
    Mask,
    Noise,
    Perturbation,
    Zoom,
    compose,
    downsample,
    enlarge,
    parse_perturbations,
    undo_all,
)

PATCH = (4, 4)
ALL = [f"{name}={value}" if value else name for name, value in EXAMPLES.items()]
CHAINS = [(word,) for word in ALL] + [("mask=0.5", "downsample=4"), ("mask=0.5", "zoom=2"), ("noise=0.1", "mask=0.7")]
EVERY_CHAIN = pytest.mark.parametrize("words", CHAINS, ids="+".join)


def key(count: int, epoch: int = 0) -> NoiseKey:
    return NoiseKey(3, torch.full((count,), epoch), torch.arange(count))


def picture(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def smooth(size: int) -> Tensor:
    """A picture without fine detail."""
    rows, columns = torch.meshgrid(torch.linspace(0, 3, size), torch.linspace(0, 2, size), indexing="ij")
    planes = torch.stack([rows.sin(), columns.cos(), (rows + columns).cos()])
    return (0.5 + 0.4 * planes)[None].expand(2, -1, -1, -1)


def view(words: tuple[str, ...], image: Tensor, epoch: int = 0) -> Tensor:
    return compose(parse_perturbations(words, PATCH), image, key(len(image), epoch)).image


@EVERY_CHAIN
def test_a_picture_keeps_its_size_and_its_scale_and_is_not_written_to(words):
    image = picture(2, 3, 16, 24)
    before = image.clone()
    perturbations = parse_perturbations(words, PATCH)
    assert all(isinstance(perturbation, Perturbation) for perturbation in perturbations)
    perturbed = compose(perturbations, image, key(2))
    guess = undo_all(perturbations, *perturbed)
    for found in (perturbed.image, guess):
        assert found.shape == image.shape
        assert found.dtype == torch.float32
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert perturbed.hidden.shape == (2, 1, 16, 24)
    assert (perturbed.image[perturbed.hidden.expand_as(image)] == 0.5).all()
    assert torch.equal(image, before)
    assert not torch.equal(perturbed.image, image)


@EVERY_CHAIN
def test_a_view_depends_on_the_picture_and_its_key_alone(words):
    image = picture(3, 3, 16, 16)
    perturbations = parse_perturbations(words, PATCH)
    together = compose(perturbations, image, key(3))
    alone = compose(perturbations, image[1:2], NoiseKey(3, torch.zeros(1, dtype=torch.int64), torch.tensor([1])))
    torch.testing.assert_close(alone.image[0], together.image[1])
    assert torch.equal(alone.hidden[0], together.hidden[1])
    drawn = {"mask", "noise"} & {word.partition("=")[0] for word in words}
    assert torch.equal(view(words, image, epoch=1), together.image) == (not drawn)


@EVERY_CHAIN
def test_only_a_local_perturbation_leaves_visible_pixels_as_they_are(words):
    image = picture(2, 3, 16, 16)
    perturbations = parse_perturbations(words, PATCH)
    perturbed = compose(perturbations, image, key(2))
    same = torch.equal(torch.where(perturbed.hidden, 0, perturbed.image), torch.where(perturbed.hidden, 0, image))
    assert same == all(perturbation.local for perturbation in perturbations)


@pytest.mark.parametrize("sampler", ["random", "block", "inverse_block"])
@pytest.mark.parametrize("behind", [(), ("downsample=2",), ("blur=1.5",), ("zoom=1.5",), ("grey", "noise=0.2")])
def test_nothing_of_the_hole_is_left(sampler, behind):
    """Whatever stood there, the view is the same to the bit, whatever comes behind the mask."""
    image, other = picture(4, 3, 24, 24), picture(4, 3, 24, 24, seed=1)
    perturbations = parse_perturbations(("mask=0.5", *behind), PATCH, sampler)
    hidden = perturbations[0].apply(image, torch.zeros(4, 1, 24, 24, dtype=torch.bool), key(4)).hidden
    assert int(hidden.sum()) == 4 * 24 * 24 // 2
    assert (hidden[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3) == hidden).all()
    changed = torch.where(hidden, other, image)
    perturbed = compose(perturbations, image, key(4))
    assert torch.equal(compose(perturbations, changed, key(4)).image, perturbed.image)
    # and what is visible does matter
    assert not torch.equal(compose(perturbations, other, key(4)).image, perturbed.image)


def test_no_colour_is_left():
    """Pictures of equal luma look the same, and no pixel has an a or b."""
    image = 0.3 + 0.4 * picture(2, 3, 8, 8)
    # along (0.587, -0.299, 0) and (0.114, 0, -0.299) luma does not change
    red, blue = (0.3 * (picture(2, 2, 8, 8, seed=1) - 0.5)).split(1, 1)
    change = torch.cat([0.587 * red + 0.114 * blue, -0.299 * red, -0.299 * blue], 1)
    assert change.abs().max() > 0.05
    found = view(("grey",), image)
    torch.testing.assert_close(view(("grey",), image + change), found, rtol=0, atol=1e-6)
    assert torch.equal(found, found[:, :1].expand(-1, 3, -1, -1))
    assert srgb_to_lab(found)[:, 1:].abs().max() < 1e-4
    torch.testing.assert_close(found[:, :1], grey(image))


@pytest.mark.parametrize("factor", [2, 4])
def test_no_detail_is_left(factor):
    """Pictures with the same small version give the same view. The others are found by solving for what the way down,
    which is linear, maps to nothing."""
    size = 16
    units = torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size)
    # half grey, so that overshoots are not cut off
    matrix = (downsample(0.25 * units + 0.5, factor) - 0.5).flatten(1).T * 4
    change = picture(size * size, seed=2, dtype=torch.float64) - 0.5
    change -= torch.linalg.lstsq(matrix, matrix @ change, driver="gelsd").solution
    change = 0.25 * change.view(1, 1, size, size)
    assert change.std() > 0.05
    image = 0.4 + 0.2 * picture(1, 3, size, size, dtype=torch.float64)
    word = (f"downsample={factor}",)
    torch.testing.assert_close(view(word, image + change), view(word, image), rtol=0, atol=1e-9)
    torch.testing.assert_close(downsample(image + change, factor), downsample(image, factor), rtol=0, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_little_is_left_above_the_highest_frequency_of_the_small_version(factor):
    """White noise has most of its power there; a hundredth of that is left where the side is halved, else far less."""
    image = 0.3 + 0.4 * picture(16, 1, 64, 64)
    frequency = torch.fft.fftfreq(64).abs()
    high = torch.maximum(frequency[:, None], frequency[None]) > 0.5 / factor
    found = view((f"downsample={factor}",), image)
    before, after = (torch.fft.fft2(planes).abs().square()[..., high].sum() for planes in (image, found))
    assert after < 0.05 / factor**2 * before


def test_resampling_is_that_of_pillow():
    image = picture(1, 1, 24, 36)
    pillow = Image.fromarray(image[0, 0].numpy())
    for factor in (2, 4):
        expected = np.asarray(pillow.resize((36 // factor, 24 // factor), Image.Resampling.BICUBIC)).clip(0, 1)
        np.testing.assert_allclose(downsample(image, factor)[0, 0].numpy(), expected, atol=1e-5)
    expected = np.asarray(pillow.resize((72, 60), Image.Resampling.BICUBIC)).clip(0, 1)
    np.testing.assert_allclose(enlarge(image, (60, 72))[0, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.5])
def test_blur_is_that_of_scipy(sigma):
    image = picture(1, 3, 12, 17)
    radius = int(np.ceil(4 * sigma))
    expected = gaussian_filter(image.double().numpy(), sigma, mode="nearest", radius=radius, axes=(2, 3))
    np.testing.assert_allclose(view((f"blur={sigma}",), image).numpy(), expected, atol=1e-6)


def test_noise_is_gaussian_white_and_as_strong_as_said():
    image = torch.full((4, 3, 63, 65), 0.5)
    noise = (view(("noise=0.1",), image) - 0.5) / 0.1
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=0.1)
    for one, other in [(noise[..., 1:], noise[..., :-1]), (noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])]:
        assert abs(float((one * other).mean())) < 0.03


def test_zoom_shows_the_centre_alone():
    image, other = picture(2, 3, 16, 20), picture(2, 3, 16, 20, seed=1)
    other[..., 4:12, 5:15] = image[..., 4:12, 5:15]
    found = view(("zoom=2",), image)
    assert torch.equal(view(("zoom=2",), other), found)
    torch.testing.assert_close(found, enlarge(image[..., 4:12, 5:15], (16, 20)))


def test_zoom_undone_has_the_centre_in_its_place_and_goes_on_smoothly():
    image = smooth(32)
    zoom = Zoom(2.0)
    perturbed = compose((zoom,), image, key(2))
    guess = undo_all((zoom,), *perturbed)
    # away from the rim of the centre, where bicubic enlarging has no neighbours
    torch.testing.assert_close(guess[..., 10:22, 10:22], image[..., 10:22, 10:22], rtol=0, atol=0.005)
    around = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    around[..., 8:24, 8:24] = False
    error = (guess - image).square()[..., around[0, 0]].mean()
    constant = (image[..., 8:24, 8:24].mean((2, 3), keepdim=True) - image).square()[..., around[0, 0]].mean()
    assert error < 0.8 * constant
    assert (guess.diff(dim=2).abs().amax()) < 0.2


def test_what_is_hidden_in_the_centre_is_zoomed_with_it():
    image, hidden = smooth(16), torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    hidden[..., 4:8, 6:8] = True
    perturbed = Zoom(2.0).apply(torch.where(hidden, 0.5, image), hidden, key(2))
    expected = torch.zeros_like(hidden)
    expected[..., 0:8, 4:8] = True
    assert torch.equal(perturbed.hidden, expected)
    back = Zoom(2.0).undo(*perturbed)
    assert not back.hidden.any()
    assert (back.image[..., 4:8, 6:8] - image[..., 4:8, 6:8]).abs().mean() < 0.1


def test_a_mask_undone_is_interpolated():
    image = smooth(32)
    mask = Mask(0.5, PATCH)
    perturbed = compose((mask,), image, key(2))
    guess = mask.undo(*perturbed)
    assert not guess.hidden.any()
    assert torch.equal(guess.image, interpolate_hidden(perturbed.image, perturbed.hidden))
    assert (guess.image - image).square().mean() < 0.1 * (perturbed.image - image).square().mean()


@pytest.mark.parametrize("perturbation", [Grey(), Downsample(2), Blur(1.0), Noise(0.1)])
def test_the_others_undone_are_themselves(perturbation):
    perturbed = compose((perturbation,), picture(2, 3, 8, 8), key(2))
    assert torch.equal(undo_all((perturbation,), *perturbed), perturbed.image)


def test_perturbations_are_undone_in_reverse():
    """A mask in front of a zoom: the guess is in the coordinates of the picture, with nothing grey left in it."""
    image = smooth(32)
    perturbations = parse_perturbations(("mask=0.5", "zoom=2"), PATCH)
    perturbed = compose(perturbations, image, key(2))
    guess = undo_all(perturbations, *perturbed)
    assert (guess - image)[..., 8:24, 8:24].abs().mean() < 0.1
    wrong = undo_all(perturbations[::-1], *perturbed)
    assert not torch.equal(wrong, guess)


def test_two_masks_hide_what_either_hides():
    image = picture(2, 3, 16, 16)
    both = (Mask(0.25, PATCH), Mask(0.25, (8, 8)))
    hidden = [compose((mask,), image, key(2)).hidden for mask in both]
    assert torch.equal(compose(both, image, key(2)).hidden, hidden[0] | hidden[1])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 12)])
def test_small_and_grey_pictures(channels, size):
    image = picture(2, channels, *size)
    for words in (("grey",), ("blur=2",), ("noise=0.1",), ("zoom=2",)):
        perturbations = parse_perturbations(words, PATCH)
        perturbed = compose(perturbations, image, key(2))
        assert undo_all(perturbations, *perturbed).isfinite().all()


def test_words_become_perturbations_in_their_order():
    words = ("mask=0.5", "grey", "downsample=4", "blur=1.5", "noise=0.1", "zoom=1.5")
    expected = (Mask(0.5, (8, 4), "block"), Grey(), Downsample(4), Blur(1.5), Noise(0.1), Zoom(1.5))
    assert parse_perturbations(words, (8, 4), "block") == expected
    assert parse_perturbations(words[::-1], (8, 4), "block") == expected[::-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "at least one perturbation: mask, grey, downsample"),
        (("mask=0.5", "downsampel=4"), "no perturbation is called 'downsampel'; did you mean 'downsample'"),
        (("gray",), "did you mean 'grey'"),
        (("xyz",), "no perturbation is called 'xyz'; known are mask, grey"),
        (("mask=0.5", "mask=0.6"), "'mask' is given twice"),
        (("grey=1",), "grey takes no value, write 'grey'"),
        (("mask",), "'mask' needs a number, such as 'mask=0.5'"),
        (("blur=two",), "'blur=two' needs a number, such as 'blur=2'"),
        (("downsample=2.5",), "needs a whole number, such as 'downsample=4'"),
        (("downsample=1",), "whole factor of at least 2, got 1"),
        (("mask=1.5",), "between 0 and 1 .* got 1.5"),
        (("mask=nan",), "got nan"),
        (("blur=0",), "sigma above 0 .* got 0"),
        (("noise=25",), r"pictures lie in 0\.\.1.* got 25"),
        (("zoom=1",), "above 1 and at most 16, got 1"),
        (("zoom=inf",), "got inf"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse_perturbations(words, PATCH)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="no sampler of patches is called 'blocks'; did you mean 'block'"):
        Mask(0.5, PATCH, "blocks")
    with pytest.raises(UserError, match="3 does not divide the sides of a picture of 16x18"):
        view(("downsample=3",), picture(1, 3, 16, 18))
    with pytest.raises(UserError, match="patch size 4x4 does not divide image size 18x16"):
        view(("mask=0.5",), picture(1, 3, 18, 16))
    with pytest.raises(UserError, match="4 channels: convert them to RGB"):
        view(("grey",), picture(1, 4, 16, 16))
