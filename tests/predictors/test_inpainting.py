"""Holes: what counts in the loss, what is compared, and that stripes go on through them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from skimage.metrics import peak_signal_noise_ratio
from tiny_pixels import batch_of, pictures, predict, stirred, tiny, train
from torch import Tensor

from mmssl.errors import UserError
from mmssl.perturbations.fill import interpolate_hidden
from mmssl.predictors.inpainting import Inpainting

EVERY_HOLE = pytest.mark.parametrize("hole", ["centre", "blocks", "free_form"])


def inpainter(**changes) -> Inpainting:
    model = tiny("inpainting", **changes)
    assert isinstance(model, Inpainting)
    return model


def stripes(count: int, seed: int) -> dict[str, Tensor]:
    """Vertical stripes of a period of 4 to 8 pixels and of any phase and colours."""
    generator = torch.Generator().manual_seed(seed)
    period = 4 + 4 * torch.rand(count, 1, 1, 1, generator=generator)
    phase, colour = (torch.rand(count, channels, 1, 1, generator=generator) for channels in (1, 3))
    wave = torch.sin(2 * torch.pi * (torch.arange(16) / period + phase)).expand(-1, -1, 16, -1)
    return batch_of(0.5 + (0.2 + 0.3 * colour) * wave)


@EVERY_HOLE
@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_the_stated_share_is_hidden(hole, fraction):
    model = inpainter(hole=hole, mask_fraction=fraction, image_size=(32, 64), patch_size=(8, 8))
    where = model.perturb(pictures(model, count=10))["where"]
    tolerance = 0.03 if hole == "centre" else 1 / (32 * 64)
    assert (where.double().mean((1, 2, 3)) - fraction).abs().max() <= tolerance
    if hole != "centre":
        assert len(where.flatten(1).unique(dim=0)) == 10


@EVERY_HOLE
@pytest.mark.parametrize("training", [True, False])
def test_loss_and_reference_equal_a_loop_over_pixels(hole, training):
    model = stirred(inpainter(hole=hole, gradient_weight=0.7, overlap_weight=0.3)).train(training)
    batch = pictures(model, count=2)
    outcome, prediction = model(batch), predict(model, batch).detach().double().numpy()
    where = model.perturb(batch)["where"].numpy()
    truth = batch["image"].double().numpy() / 255
    sums = {"pixels": 0.0, "overlap": 0.0, "gradients": 0.0, "trivial": 0.0, "trivial_gradients": 0.0}
    filled = interpolate_hidden(batch["image"] / 255, torch.from_numpy(where)).double().numpy()
    for row in range(2):
        hidden = where[row, 0]
        near = maximum_filter(hidden, 5, mode="constant") & ~hidden
        for name, guess in (("", prediction[row]), ("trivial", filled[row])):
            error = guess - truth[row]
            sums[name or "pixels"] += np.abs(error[:, hidden]).sum()
            # what is shown: visible pixels as they are
            shown = np.where(hidden, error, 0)
            for axis in (1, 2):
                sums[f"{name}_gradients" if name else "gradients"] += np.abs(np.diff(shown, axis=axis)).sum() / 2
        sums["overlap"] += np.abs((prediction[row] - truth[row])[:, near]).sum()
    count = 3 * where.sum()
    assert outcome["count"].item() == count
    assert outcome["loss_pixels"].item() == pytest.approx(sums["pixels"] / count, rel=1e-4)
    expected = sums["pixels"] + 0.7 * sums["gradients"] + (0.3 * sums["overlap"] if training else 0)
    assert outcome["loss"].item() == pytest.approx(expected / count, rel=1e-4)
    assert outcome["reference"].item() == pytest.approx(
        (sums["trivial"] + 0.7 * sums["trivial_gradients"]) / count, rel=1e-4
    )
    assert outcome["reference_pixels"].item() == pytest.approx(sums["trivial"] / count, rel=1e-4)


def test_the_plain_loss_is_the_mean_over_the_hole():
    model = stirred(inpainter(gradient_weight=0.0, overlap=0)).train()
    batch = pictures(model)
    where = model.perturb(batch)["where"].expand(-1, 3, -1, -1)
    error = (predict(model, batch) - batch["image"] / 255)[where].abs().mean()
    outcome = model(batch)
    assert outcome["loss"].item() == pytest.approx(error.item(), rel=1e-5)
    assert outcome["loss_pixels"].item() == outcome["loss"].item()


def test_pixels_beyond_hole_and_overlap_have_no_gradient():
    model = stirred(inpainter(overlap=2)).train()
    batch = pictures(model)
    view = model.perturb(batch)
    for training, reach in ((True, 5), (False, 1)):
        model.train(training)
        prediction = (view["trivial"] + 0.1).requires_grad_()
        model.score(prediction, view["image"], view)["loss"].backward()
        moved = prediction.grad.abs().sum(1).numpy() > 0
        expected = np.stack([maximum_filter(hidden, reach, mode="constant") for hidden in view["where"][:, 0].numpy()])
        assert not (moved & ~expected).any()


def test_psnr_is_that_of_scikit_image_over_the_hole():
    model = stirred(inpainter()).eval()
    batch = pictures(model, count=3)
    where = model.perturb(batch)["where"].expand(-1, 3, -1, -1)
    guesses, share = predict(model, batch).clamp(0, 1), where.flatten(1).sum(1).double().numpy()
    ratios = [
        peak_signal_noise_ratio(truth[mask].double().numpy() / 255, guess[mask].detach().numpy(), data_range=1)
        for truth, guess, mask in zip(batch["image"], guesses, where, strict=True)
    ]
    assert model(batch)["psnr"].item() == pytest.approx((share * ratios).sum() / share.sum(), abs=1e-3)


def test_visible_pixels_are_given_back_as_they_are():
    model = stirred(inpainter()).eval()
    image = torch.rand(3, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(3, 1, 21, 34, dtype=torch.bool)
    hidden[1, :, 5:12, 7:30] = hidden[2] = True
    restored = model.restore(image, hidden)
    visible = ~hidden.expand(-1, 3, -1, -1)
    assert torch.equal(restored[visible], image[visible])
    assert not torch.equal(restored[1], image[1])
    # neither does a picture that is all hole show anything of what was there
    assert torch.equal(model.restore(1 - image, hidden)[2], restored[2])
    trivial = model.view_of(image, hidden)["trivial"]
    assert torch.equal(trivial[2], torch.tensor([0.4, 0.5, 0.6])[:, None, None].expand(3, 21, 34))


def test_stripes_go_on_through_the_hole():
    model = inpainter(image_size=(16, 16), patch_size=(4, 4), hole="blocks", decoder_dim=16, std=(0.25,), mean=(0.5,))
    train(model, [stripes(16, seed) for seed in range(12)], 60, 5e-3)
    outcome = model(stripes(64, 99))
    assert outcome["skill_pixels"].item() > 0.4
    assert outcome["psnr"].item() > outcome["psnr_trivial"].item() + 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask_fraction": 0.0}, "mask_fraction must lie between 0 and 1"),
        ({"overlap": -1}, "cannot be negative"),
        ({"gradient_weight": -0.5}, "cannot be negative"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        inpainter(**changes)
