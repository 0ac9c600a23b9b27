"""Sharp pictures from coarse ones: what is compared, what the coarse one cannot know, and that edges are learned."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny_pixels import bars, pictures, predict, stirred, tiny, train
from torch import Tensor

from mmssl.errors import UserError
from mmssl.perturbations.pictures import downsample
from mmssl.predictors.super_resolution import SuperResolution

EVERY_GIVEN = pytest.mark.parametrize("given", ["small", "enlarged"])


def enlarger(**changes) -> SuperResolution:
    model = tiny("super-resolution", **changes)
    assert isinstance(model, SuperResolution)
    return model


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic resampling, channel by channel in float32, of [channel height width]."""
    planes = [Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for plane in picture]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(0, 1)


@EVERY_GIVEN
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_trivial_guess_is_pillows_bicubic_enlargement(scale, given):
    model = enlarger(scale=scale, given=given, image_size=(32, 64), patch_size=(4, 4)).eval()
    batch = pictures(model, count=2)
    view = model.perturb(batch)
    truth = batch["image"].float() / 255
    errors = []
    for picture, small, trivial in zip(truth, view["small"], view["trivial"], strict=True):
        expected = resized(picture, (32 // scale, 64 // scale))
        torch.testing.assert_close(small, expected, atol=2e-3, rtol=0)
        expected = resized(expected, (32, 64))
        torch.testing.assert_close(trivial, expected, atol=4e-3, rtol=0)
        errors.append((expected - picture).abs().mean().item())
    outcome = model(batch)
    assert outcome["reference"].item() == pytest.approx(sum(errors) / 2, rel=5e-3)
    assert outcome["count"].item() == truth.numel()
    assert tuple(view["input"].shape[2:]) == ((32 // scale, 64 // scale) if given == "small" else (32, 64))
    assert model.tile == (32 // scale, 64 // scale)


def test_measures_are_those_of_scikit_image_on_luma_without_the_border():
    model = stirred(enlarger(image_size=(32, 48), patch_size=(4, 4))).eval()
    batch = pictures(model, count=3)
    outcome, predicted = model(batch), predict(model, batch).detach().clamp(0, 1)
    ratios, similarities = [], []
    for truth, guess in zip(batch["image"], predicted, strict=True):
        one, other = (
            rgb2ycbcr(picture.permute(1, 2, 0).double().numpy())[2:-2, 2:-2, 0] / 255
            for picture in (truth / 255, guess)
        )
        ratios.append(peak_signal_noise_ratio(one, other, data_range=1))
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        similarities.append(structural_similarity(one, other, **settings))
    assert outcome["psnr"].item() == pytest.approx(np.mean(ratios), abs=1e-3)
    assert outcome["ssim"].item() == pytest.approx(np.mean(similarities), abs=1e-3)


@EVERY_GIVEN
def test_detail_that_downsampling_takes_changes_no_prediction(given, monkeypatch):
    """Of all pictures with the same coarse one, another: moved within the null space of the downsampling."""
    model = stirred(enlarger(given=given, patch_size=(4, 4))).eval()
    basis = torch.eye(16 * 32).view(-1, 1, 16, 32)
    # the downsampling is linear where it need not be clamped
    matrix = (downsample(0.5 + 0.2 * basis, 2) - 0.5).flatten(1).T.double() / 0.2
    detail = torch.randn(3, 16 * 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    detail = detail - (torch.linalg.pinv(matrix) @ (matrix @ detail.T)).T
    image = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.35
    other = image + (0.05 * detail.view(1, 3, 16, 32)).float()
    assert (other - image).abs().mean() > 0.02
    monkeypatch.setattr(model, "pictures", lambda batch: batch["image"])
    torch.testing.assert_close(predict(model, {"image": other}), predict(model, {"image": image}), atol=1e-5, rtol=1e-5)
    assert (predict(model, {"image": image.roll(1, 3)}) - predict(model, {"image": image})).abs().max() > 0.01


def test_the_sharp_picture_itself_is_what_is_encoded_clean():
    model = stirred(enlarger()).eval()
    batch = pictures(model)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    expected = model.network.backbone.pooled((batch["image"] / 255 - mean) / std)["mean"]
    torch.testing.assert_close(model.encode_clean(batch)["mean"], expected)


def test_an_enlarged_input_need_not_be_filled_up_beyond_what_its_network_takes():
    """24 small pixels are 96 large ones: a multiple of 16, though 24 is none."""
    model = stirred(enlarger(scale=4, given="enlarged", image_size=(96, 96), patch_size=(16, 16))).eval()
    assert model.multiple == (4, 4)
    batch = pictures(model, count=1)
    expected = model.reveal(batch)["predicted"]
    torch.testing.assert_close(model.restore(model.perturb(batch)["small"]), expected, atol=1e-6, rtol=1e-5)


@EVERY_GIVEN
def test_edges_are_learned_beyond_bicubic(given):
    model = enlarger(image_size=(32, 32), patch_size=(4, 4), decoder_dim=16, given=given)
    train(model, [bars(16, 32, seed) for seed in range(8)], 100, 3e-3)
    outcome = model(bars(64, 32, 99))
    assert outcome["skill"].item() > 0.1
    assert outcome["psnr"].item() > outcome["psnr_trivial"].item() + 1
    assert outcome["ssim"].item() > outcome["ssim_trivial"].item()


def test_grey_pictures_can_be_enlarged():
    model = stirred(enlarger(channels=1, mean=(0.5,), std=(0.2,))).eval()
    assert model(pictures(model))["psnr"].item() > 0
    assert model.restore(torch.rand(1, 1, 9, 5)).shape == (1, 1, 18, 10)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": (18, 32), "scale": 4}, "scale 4 does not divide pictures of"),
        ({"channels": 4, "mean": (0.5,), "std": (0.2,)}, "for pictures of 1 or 3 channels, got 4"),
        ({"timm_model": "resnet10t", "image_size": (32, 64)}, "and would be given 16x32"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        enlarger(**changes)
