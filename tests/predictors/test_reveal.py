"""Pictures for the eye: true to the picture where it was visible, blind to it where it was hidden."""

import pytest
import torch
from tiny_autoencoder import ARCHITECTURES, SAMPLERS, TARGETS, hidden_pixels, pictures, scrambled, tiny_model
from torch import Tensor

from mmssl.predictors.masked_autoencoder import MaskedAutoencoder

CASES = pytest.mark.parametrize(
    ("architecture", "target"), [(architecture, target) for architecture in ARCHITECTURES for target in TARGETS]
)


@CASES
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_predicted_uses_nothing_of_hidden_patches(architecture, target, sampler):
    model = tiny_model(architecture=architecture, target=target, sampler=sampler).eval()
    batch = pictures(model.config)
    hidden = hidden_pixels(model, batch)
    shown, other = model.reveal(batch), model.reveal(scrambled(batch, hidden))
    for name in ("perturbed", "predicted", "composite", "hidden"):
        assert torch.equal(shown[name], other[name]), name
    assert not torch.equal(shown["original"], other["original"])


@CASES
def test_every_picture_says_what_its_name_says(architecture, target):
    model = tiny_model(architecture=architecture, target=target).eval()
    batch = pictures(model.config)
    shown = model.reveal(batch)
    assert shown.keys() == {"original", "perturbed", "predicted", "composite", "hidden"}
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in shown.values())
    hidden = hidden_pixels(model, batch)
    assert torch.equal(shown["hidden"], hidden.float())
    truth = batch["image"] / 255
    torch.testing.assert_close(shown["original"], truth)
    grey = torch.tensor(model.config.mean)[:, None, None].expand_as(truth)
    everywhere = hidden.expand_as(truth)
    for name, visible, covered in (
        ("perturbed", truth, grey),
        ("predicted", grey, shown["composite"]),
        ("composite", truth, shown["predicted"]),
    ):
        torch.testing.assert_close(shown[name], torch.where(everywhere, covered, visible))
    assert shown["predicted"].min() >= 0
    assert shown["predicted"].max() <= 1
    assert not torch.allclose(shown["predicted"][everywhere], grey[everywhere], atol=1e-2)


@CASES
def test_the_mask_is_that_of_evaluation_and_the_mode_stays(architecture, target):
    model = tiny_model(architecture=architecture, target=target)
    model.seed = 9
    batch = pictures(model.config, epoch=0)
    shown = model.train().reveal(batch)
    assert model.training
    assert all(module.training for module in model.modules())
    again = model.eval().reveal(batch)
    assert not model.training
    assert all(torch.equal(shown[name], again[name]) for name in shown)


class Perfect(MaskedAutoencoder):
    def predict(self, latent: Tensor, view: dict) -> Tensor:  # noqa: ARG002
        return self.target({}, view)


def test_a_perfect_prediction_of_pixels_shows_the_picture():
    model = Perfect(tiny_model(target="pixels").config)
    shown = model.reveal(pictures(model.config))
    torch.testing.assert_close(shown["composite"], shown["original"], rtol=0, atol=1e-6)


def test_a_perfect_prediction_of_normalised_patches_shows_the_picture_where_brightness_and_contrast_are_the_same():
    """All patches hold the same values, each in an order of its own: nothing to interpolate wrongly."""
    model = Perfect(tiny_model(target="normalized_pixels").config)
    batch = pictures(model.config, count=2)
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (32,), generator=generator, dtype=torch.uint8)
    image = torch.empty_like(batch["image"])
    for row in range(4):
        for column in range(3):
            patch = values[torch.randperm(32, generator=generator)].view(4, 8)
            image[:, :, 4 * row : 4 * row + 4, 8 * column : 8 * column + 8] = patch
    shown = model.reveal(batch | {"image": image})
    torch.testing.assert_close(shown["composite"], shown["original"], rtol=0, atol=1e-5)


def test_statistics_of_the_truth_are_not_used():
    """Bright hidden patches in a picture of dark visible ones: an honest picture stays dark, whatever is predicted."""
    model = Perfect(tiny_model(target="normalized_pixels").config)
    batch = pictures(model.config, count=2)
    hidden = hidden_pixels(model, batch)
    dark = torch.randint(0, 20, batch["image"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    image = torch.where(hidden, dark + 230, dark)
    shown = model.reveal(batch | {"image": image})
    everywhere = hidden.expand_as(image)
    assert shown["original"][everywhere].min() > 0.9
    assert shown["predicted"][everywhere].max() < 0.2


@pytest.mark.parametrize("target", TARGETS)
def test_the_note_says_that_nothing_is_borrowed(target):
    note = tiny_model(target=target).reveal_note
    assert "visible" in note
    assert ("interpolated" in note) == (target == "normalized_pixels")
