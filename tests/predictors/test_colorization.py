"""Colour from lightness: what the loss weighs, what it is compared with, and why colours are classes."""

import pytest
import torch
from skimage.color import rgb2lab
from tiny_pixels import batch_of, pictures, predict, stirred, tiny, train
from torch import Tensor

from mmssl.errors import UserError
from mmssl.perturbations.colour import AbQuantizer, lab_to_srgb, rebalancing, srgb_to_lab
from mmssl.predictors.colorization import UNSEEN, Colorization

OBJECTIVES = pytest.mark.parametrize("task", ["colour classes", "colour regression"])
RED, BLUE = (45.0, 30.0), (-10.0, -40.0)


def colorizer(task: str, **changes) -> Colorization:
    model = tiny(task, **changes)
    assert isinstance(model, Colorization)
    return model


def shapes(count: int, seed: int, red: Tensor | None = None) -> dict[str, Tensor]:
    """Bars that lie or stand, on grey, all of the same lightness: those that lie are red, those that stand blue.

    ``red``: which ones are red instead, whatever they do, all of them in the middle.
    """
    generator = torch.Generator().manual_seed(seed)
    lying = torch.rand(count, generator=generator) < 0.5
    place = torch.randint(1, 12, (count,), generator=generator) if red is None else torch.full((count,), 6)
    red = lying if red is None else red
    axis = torch.arange(16)
    inside = (axis >= place[:, None]) & (axis < place[:, None] + 4)
    bar = torch.where(lying[:, None, None], inside[:, :, None], inside[:, None, :]).float()
    colour = torch.where(red[:, None], torch.tensor(RED), torch.tensor(BLUE))
    lab = torch.cat([50 + 20 * bar[:, None], colour[:, :, None, None] * bar[:, None]], 1)
    return batch_of(lab_to_srgb(lab))


def trained(task: str, red: Tensor | None = None, steps: int = 80, **changes) -> Colorization:
    model = colorizer(task, image_size=(16, 16), patch_size=(4, 4), reduce=2, decoder_dim=16, **changes)
    batch = shapes(64, 0, red)
    model.observe([batch])
    train(model, [batch], steps, 1e-2)
    return model


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rebalance", [0.0, 0.5, 0.9])
def test_loss_and_reference_are_weighted_cross_entropies(rebalance):
    """Against scikit-image's Lab and a comparison of every pixel with every class, in float64."""
    model = colorizer("colour classes", rebalance=rebalance).eval()
    batch = pictures(model)
    model.observe([batch])
    stirred(model)
    outcome, logits = model(batch), predict(model, batch).double()

    lab = torch.from_numpy(rgb2lab(batch["image"].permute(0, 2, 3, 1).numpy() / 255)).double()
    ab = lab[..., 1:].unflatten(1, (8, 2)).unflatten(3, (12, 2)).mean((2, 4)).reshape(-1, 2)
    bins = model.quantizer.bins.double()
    distance, nearest = torch.cdist(ab, bins).topk(5, largest=False)
    share = torch.exp(-(distance**2) / 50)
    truth = torch.zeros(len(ab), len(bins), dtype=torch.float64).scatter_(
        1, nearest, share / share.sum(1, keepdim=True)
    )
    prior = model.prior.double()
    weight = 1 / ((1 - (1 - rebalance)) * prior + (1 - rebalance) / len(bins))
    weight = weight / (weight * prior).sum()
    each = weight[nearest[:, 0]]
    told = torch.log_softmax(logits.permute(0, 2, 3, 1).reshape(-1, len(bins)), 1)
    assert outcome["loss"].item() == pytest.approx(-(each * (truth * told).sum(1)).mean().item(), rel=1e-4)
    # the marginal of exactly these pixels is the best constant answer to them
    best = (each[:, None] * truth).sum(0) / each.sum()
    mixed = (1 - UNSEEN) * best + UNSEEN / len(bins)
    assert outcome["reference"].item() == pytest.approx(-(each * (truth @ mixed.log())).mean().item(), rel=1e-4)
    colours = model.colours(logits.float()).permute(0, 2, 3, 1).reshape(-1, 2)
    assert outcome["loss_ab"].item() == pytest.approx((colours - ab).norm(dim=1).mean().item(), rel=1e-4)
    assert outcome["reference_ab"].item() == pytest.approx(ab.norm(dim=1).mean().item(), rel=1e-4)
    assert outcome["chroma"].item() == pytest.approx(colours.norm(dim=1).mean().item(), rel=1e-4)


def test_the_reference_of_regression_is_grey():
    model = colorizer("colour regression").eval()
    batch = pictures(model)
    lab = torch.from_numpy(rgb2lab(batch["image"].permute(0, 2, 3, 1).numpy() / 255)).double()
    ab = lab[..., 1:].unflatten(1, (4, 4)).unflatten(3, (6, 4)).mean((2, 4))
    outcome = model(batch)
    assert outcome["reference"].item() == pytest.approx((ab / 100).square().sum(3).mean().item(), rel=1e-4)
    assert outcome["skill_ab"].item() == pytest.approx(0, abs=1e-6)
    assert outcome["chroma"].item() == 0


@pytest.mark.parametrize("rebalance", [0.0, 0.5, 0.9])
def test_weights_have_expectation_1_and_favour_what_is_rare(rebalance):
    model = colorizer("colour classes", rebalance=rebalance, image_size=(16, 16))
    model.observe([shapes(40, 0)])
    weights = rebalancing(model.prior, 1 - rebalance)
    assert (weights * model.prior).sum().item() == pytest.approx(1, abs=1e-5)
    rare, common = weights[model.prior.argmin()], weights[model.prior.argmax()]
    # from 1 : 1 without rebalancing to (1 - r) / bins : r p + (1 - r) / bins with it
    spread = rebalance * model.prior.max() * len(weights) / (1 - rebalance) + 1
    assert (rare / common).item() == pytest.approx(spread.item(), rel=1e-3)


def test_what_is_observed_is_the_share_of_colours_whatever_the_batches():
    whole, parts, twin = (colorizer("colour classes", image_size=(16, 16)) for _ in range(3))
    batch = shapes(30, 0)
    whole.observe([batch])
    parts.observe([{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 7), slice(7, 30))])
    for name in ("prior", "marginal"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name))
        assert getattr(whole, name).sum().item() == pytest.approx(1, abs=1e-5)
    # grey is by far the most common colour
    assert (whole.quantizer.bins[whole.prior.argmax()] == 0).all()
    twin.take_observed(whole)
    assert torch.equal(twin.marginal, whole.marginal)
    assert torch.equal(twin.prior, whole.prior)


# --- nothing leaks ---------------------------------------------------------------------------------------------------


@OBJECTIVES
def test_colours_change_nothing_that_the_network_sees(task):
    """Other colours of the same lightness. The conversion to and fro rounds in the sixth digit."""
    model = stirred(colorizer(task)).eval()
    image = pictures(model)["image"] / 255
    lab = srgb_to_lab(image)
    grey = lab_to_srgb(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], 1))
    turned = lab_to_srgb(torch.cat([lab[:, :1], lab[:, 1:].flip(1) * 0.2], 1))
    hidden = torch.zeros_like(image[:, :1], dtype=torch.bool)
    assert (turned - image).abs().max() > 0.1
    expected = model.view_of(image, hidden)["input"]
    for other in (grey, turned, grey[:, :1]):
        torch.testing.assert_close(model.view_of(other, hidden)["input"], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.restore(other), model.restore(image), rtol=1e-3, atol=1e-3)
    # and one level of lightness would be seen
    assert (model.view_of(image * 254 / 255, hidden)["input"] - expected).abs().max() > 3e-3


@OBJECTIVES
def test_the_result_has_the_lightness_that_was_given(task):
    """Also of the darkest and the brightest greys, which cannot be as colourful as the network wants them."""
    model = stirred(colorizer(task)).eval()
    grey = torch.rand(2, 1, 21, 30, generator=torch.Generator().manual_seed(0))
    restored = model.restore(grey)
    assert restored.shape == (2, 3, 21, 30)
    assert srgb_to_lab(restored)[:, 1:].norm(dim=1).mean() > 1
    lightness = srgb_to_lab(grey.expand(-1, 3, -1, -1))[:, 0]
    torch.testing.assert_close(srgb_to_lab(restored)[:, 0], lightness, atol=0.1, rtol=0)


# --- learning --------------------------------------------------------------------------------------------------------


@OBJECTIVES
def test_colours_that_shape_decides_are_learned(task):
    outcome = trained(task)(shapes(50, 1))
    assert outcome["skill"].item() > 0.5
    assert outcome["loss_ab"].item() < 0.35 * outcome["reference_ab"].item()
    assert outcome["chroma"].item() > 0.8 * outcome["chroma_true"].item()


def test_in_doubt_regression_turns_pale_and_classes_do_not():
    """Seven of ten bars are red, the others blue, and nothing tells which: the mean of both is little more than half as
    colourful as either, the annealed mean of the classes is nearly the likelier one."""
    red = torch.arange(64) % 10 < 7
    mean = 0.7 * torch.tensor(RED) + 0.3 * torch.tensor(BLUE)
    chroma = {}
    for task in ("colour classes", "colour regression"):
        model = trained(task, red, rebalance=0.0)
        batch = shapes(40, 1, torch.arange(40) % 10 < 7)
        bars = model.target(batch, model.perturb(batch)).norm(dim=1) > 30
        chroma[task] = model.colours(predict(model, batch)).norm(dim=1)[bars].mean().item()
    assert chroma["colour regression"] == pytest.approx(mean.norm().item(), rel=0.15)
    assert chroma["colour classes"] > 1.25 * chroma["colour regression"]


def test_a_colder_annealed_mean_is_more_colourful():
    logits = torch.randn(2, len(AbQuantizer().bins), 4, 4, generator=torch.Generator().manual_seed(0)) * 3
    chroma = [
        colorizer("colour classes", temperature=temperature).colours(logits).norm(dim=1).mean().item()
        for temperature in (1.0, 0.38, 0.05)
    ]
    assert chroma == sorted(chroma)
    assert chroma[2] > 1.5 * chroma[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"channels": 1, "mean": (0.5,), "std": (0.2,)}, "colour pictures of 3 channels, got 1"),
        ({"rebalance": 1.0}, "rebalance in 0 to below 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"reduce": 8}, "8 times smaller than the input needs features as coarse"),
        ({"reduce": 3}, "does not divide into one of"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        colorizer("colour classes", **changes)
