"""Perturbations in any composition, undone by one network."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny_pixels import bars, pictures, predict, stirred, tiny, train

from mmssl.errors import UserError
from mmssl.perturbations.colour import grey
from mmssl.predictors.restoration import Restoration

COMPOSITIONS = [
    ("grey",),
    ("zoom=2",),
    ("mask=0.5", "downsample=4"),
    ("mask=0.25", "zoom=2"),
    ("grey", "blur=1.5", "noise=0.1"),
    ("mask=0.5", "grey", "downsample=2", "noise=0.05", "zoom=1.5", "blur=1"),
]
EVERY_COMPOSITION = pytest.mark.parametrize("perturbations", COMPOSITIONS, ids="+".join)


def restorer(*perturbations: str, **changes) -> Restoration:
    model = tiny("restoration of blur", perturbations=perturbations, **changes)
    assert isinstance(model, Restoration)
    return model


@EVERY_COMPOSITION
@pytest.mark.parametrize("sampler", ["random", "block"])
def test_every_composition_trains_reveals_and_restores(perturbations, sampler):
    model = restorer(*perturbations, sampler=sampler).train()
    batch = pictures(model)
    outcome = model(batch)
    outcome["loss"].backward()
    assert outcome["skill"].item() == pytest.approx(0, abs=1e-6)
    assert model.network.decoder.head.weight.grad.abs().max() > 0
    assert outcome["count"].item() == batch["image"].numel()
    stirred(model).eval()
    view, panels = model.perturb(batch), model.reveal(batch)
    hidden = view["input"][:, -1:].bool()
    assert hidden.any() == any(word.startswith("mask") for word in perturbations)
    torch.testing.assert_close(model.restore(panels["perturbed"], hidden), panels["predicted"])
    again = model.eval()(batch)
    assert all(torch.equal(value, model(batch)[name]) for name, value in again.items())
    for name, word in (("mask", "mask=0.5"), ("blur", "blur=1.5")):
        if word in perturbations:
            assert name in model.reveal_note


@pytest.mark.parametrize(("perturbations", "local"), [(("mask=0.5",), True), (("mask=0.5", "downsample=2"), False)])
def test_only_what_changed_is_predicted(perturbations, local):
    model = stirred(restorer(*perturbations)).train()
    batch = pictures(model)
    view, outcome = model.perturb(batch), model(batch)
    share = 0.5 if local else 1.0
    assert (view["where"].double().mean((1, 2, 3)) == share).all()
    where = view["where"].expand(-1, 3, -1, -1)
    error = (predict(model, batch) - batch["image"] / 255)[where].abs().mean()
    assert outcome["loss"].item() == pytest.approx(error.item(), rel=1e-5)


def test_the_reference_of_blur_is_the_blurred_picture_itself():
    model = restorer("blur=1.5").eval()
    batch = pictures(model, count=2)
    truth = batch["image"].double().numpy() / 255
    blurred = gaussian_filter(truth, (0, 0, 1.5, 1.5), mode="nearest", truncate=4)
    assert model(batch)["reference"].item() == pytest.approx(abs(blurred - truth).mean(), rel=1e-3)


@pytest.mark.parametrize(
    "perturbations", [("mask=0.5",), ("mask=0.5", "downsample=2"), ("mask=0.5", "blur=2", "zoom=2")]
)
def test_what_a_mask_hides_leaves_no_trace(perturbations):
    model, alone = stirred(restorer(*perturbations)).eval(), restorer("mask=0.5").eval()
    batch = pictures(model)
    hidden = alone.perturb(batch)["where"]
    noise = torch.randint(0, 256, batch["image"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    other = batch | {"image": torch.where(hidden, noise, batch["image"])}
    assert not torch.equal(other["image"], batch["image"])
    assert torch.equal(predict(model, other), predict(model, batch))
    assert torch.equal(model.perturb(other)["trivial"], model.perturb(batch)["trivial"])


def test_zoom_sees_nothing_of_the_surroundings_and_grey_nothing_of_colours(monkeypatch):
    model = stirred(restorer("zoom=2")).eval()
    batch = pictures(model)
    image = torch.randint(0, 256, batch["image"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    image[:, :, 4:12, 6:18] = batch["image"][:, :, 4:12, 6:18]
    assert torch.equal(predict(model, batch | {"image": image}), predict(model, batch))
    model = stirred(restorer("grey")).eval()
    colour = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(model, "pictures", lambda batch: batch["image"])
    with_id = {"id": torch.arange(2), "epoch": torch.zeros(2, dtype=torch.int64)}
    pair = [predict(model, with_id | {"image": image}) for image in (colour, grey(colour).expand(-1, 3, -1, -1))]
    torch.testing.assert_close(pair[0], pair[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("perturbations", "least"), [(("blur=1.5",), 0.3), (("mask=0.25", "noise=0.1"), 0.15)])
def test_it_learns(perturbations, least):
    model = restorer(*perturbations, image_size=(16, 16), patch_size=(4, 4), decoder_dim=16)
    train(model, [bars(16, 16, seed) for seed in range(8)], 60, 5e-3)
    assert model(bars(64, 16, 99))["skill"].item() > least


@pytest.mark.parametrize(
    ("perturbations", "changes", "sentence"),
    [
        (("blurr=2",), {}, "no perturbation is called 'blurr'; did you mean 'blur'"),
        ((), {}, "give at least one perturbation"),
        (("downsample=5",), {}, "5 does not divide the sides"),
        (("noise=2",), {}, "noise needs a sigma above 0 and at most 1"),
        (("grey",), {"channels": 4, "mean": (0.5,), "std": (0.2,)}, "1 or 3 channels"),
        (("mask=0.5",), {"sampler": "blok"}, "no sampler of patches is called 'blok'"),
    ],
)
def test_mistakes_are_named_before_the_first_step(perturbations, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        restorer(*perturbations, **changes)
