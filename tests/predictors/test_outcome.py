"""The numbers of an outcome: against loops, at their two fixed points, and joined over batches."""

import math

import pytest
import torch
from tiny_autoencoder import ARCHITECTURES, TARGETS, hidden_pixels, pictures, scrambled, select, tiny_model
from torch import Tensor

from mmssl.perturbations.fill import interpolate_hidden
from mmssl.predictors import outcome_of, sums_of
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder

CASES = pytest.mark.parametrize(
    ("architecture", "target"), [(architecture, target) for architecture in ARCHITECTURES for target in TARGETS]
)


def patches_by_loop(model: MaskedAutoencoder, image: Tensor, row: int, position: int) -> list[float]:
    """Pixels of one patch in the units of the loss, as float64 numbers: (row, column, channel) order."""
    config = model.config
    top = position // config.grid[1] * config.patch_size[0]
    left = position % config.grid[1] * config.patch_size[1]
    values = [
        (image[row, c, top + i, left + j].item() / 255 - config.mean[c]) / config.std[c]
        for i in range(config.patch_size[0])
        for j in range(config.patch_size[1])
        for c in range(config.channels)
    ]
    if config.target == "normalized_pixels":
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        values = [(value - mean) / math.sqrt(variance + 1e-6) for value in values]
    return values


def mean_square(left: list[float], right: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True)) / len(left)


@CASES
@pytest.mark.parametrize("training", [True, False])
def test_loss_and_reference_equal_a_loop_over_patches(architecture, target, training):
    model = tiny_model(architecture=architecture, target=target, decoded_fraction=0.5).train(training)
    batch = pictures(model.config, count=3)
    outcome = model(batch)
    view = model.perturb(batch)
    prediction = model.predict(model.encode(view), view)
    losses, references = [], []
    for row in range(3):
        for index, position in enumerate(view["decoded_ids"][row].tolist()):
            truth = patches_by_loop(model, batch["image"], row, position)
            losses.append(mean_square(prediction[row, index].tolist(), truth))
            references.append(mean_square([0.0] * len(truth), truth))
    expected = 9 if not training or architecture != "cross_mae" else round(9 * 0.5)
    assert len(losses) == 3 * expected
    assert outcome["count"].item() == len(losses)
    assert outcome["loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert outcome["reference"].item() == pytest.approx(sum(references) / len(references), rel=1e-5)


@CASES
def test_names_and_skill_of_an_outcome(architecture, target):
    model = tiny_model(architecture=architecture, target=target)
    batch = pictures(model.config)
    assert model.train()(batch).keys() == {"loss", "reference", "skill", "count"}
    outcome = model.eval()(batch)
    assert outcome.keys() == {
        "loss", "reference", "skill", "count", "reference_interpolation", "skill_interpolation",
    }  # fmt: skip
    assert all(value.shape == () for value in outcome.values())
    for name in ("", "_interpolation"):
        expected = 1 - outcome["loss"].item() / outcome["reference" + name].item()
        assert outcome["skill" + name].item() == pytest.approx(expected, abs=1e-6)
    # only the loss carries a gradient
    assert [name for name, value in outcome.items() if value.requires_grad] == ["loss"]


class Perfect(MaskedAutoencoder):
    def predict(self, latent: Tensor, view: dict) -> Tensor:  # noqa: ARG002
        return self.target({}, view)


class Zero(MaskedAutoencoder):
    def predict(self, latent: Tensor, view: dict) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(self.target({}, view))


@CASES
@pytest.mark.parametrize("training", [True, False])
def test_perfect_is_1_and_trivial_is_0_exactly(architecture, target, training):
    config = tiny_model(architecture=architecture, target=target).config
    batch = pictures(config, count=7)
    perfect, zero = (kind(config).train(training)(batch) for kind in (Perfect, Zero))
    assert perfect["loss"].item() == 0.0
    assert perfect["skill"].item() == 1.0
    assert zero["loss"].item() == zero["reference"].item() > 0
    assert zero["skill"].item() == 0.0


def test_the_reference_of_normalised_patches_is_the_share_that_normalising_leaves():
    """Unit unbiased variance within n values is a mean square of (n - 1) / n, less a trace for the 1e-6."""
    model = tiny_model(target="normalized_pixels").eval()
    assert model(pictures(model.config))["reference"].item() == pytest.approx(95 / 96, rel=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_the_interpolation_reference_equals_filling_the_picture(target):
    model = tiny_model(target=target).eval()
    batch = pictures(model.config, count=3)
    hidden = hidden_pixels(model, batch)
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.config.mean, model.config.std))
    filled = interpolate_hidden((batch["image"] / 255 - mean) / std, hidden)
    # back to the scale of bytes, so that the loop above reads it like any picture
    as_bytes = (filled * std + mean) * 255
    view = model.perturb(batch)
    errors = [
        mean_square(
            patches_by_loop(model, as_bytes, row, position), patches_by_loop(model, batch["image"], row, position)
        )
        for row in range(3)
        for position in view["plan"].hidden_ids[row].tolist()
    ]
    assert model(batch)["reference_interpolation"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-3)


def test_interpolation_knows_nothing_of_hidden_pixels():
    """The same truth scored against fills of two pictures that differ where it is hidden."""
    model = tiny_model(target="pixels").eval()
    batch = pictures(model.config)
    view, other = model.perturb(batch), model.perturb(scrambled(batch, hidden_pixels(model, batch)))
    prediction = model.predict(model.encode(view), view)
    truth = model.target(batch, view)
    sums, again = model.score(prediction, truth, view), model.score(prediction, truth, other)
    assert torch.equal(sums["reference_interpolation"], again["reference_interpolation"])


@CASES
@pytest.mark.parametrize("training", [True, False])
def test_outcomes_of_parts_join_to_that_of_the_whole(architecture, target, training):
    model = tiny_model(architecture=architecture, target=target).train(training)
    batch = pictures(model.config, count=7)
    whole = model(batch)
    parts = [sums_of(model(select(batch, rows))) for rows in (slice(0, 2), slice(2, 7))]
    joined = outcome_of({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert joined.keys() == whole.keys()
    for name, value in joined.items():
        assert value.item() == pytest.approx(whole[name].item(), rel=1e-5, abs=1e-5), name
        assert not value.requires_grad


def test_sums_and_outcomes_are_inverse():
    sums = {"loss": 3.0, "reference": 12.0, "reference_other": 4.0, "count": 6.0}
    outcome = outcome_of({name: torch.tensor(value) for name, value in sums.items()})
    assert {name: value.item() for name, value in outcome.items()} == {
        "loss": 0.5, "reference": 2.0, "reference_other": pytest.approx(2 / 3), "count": 6.0,
        "skill": 0.75, "skill_other": pytest.approx(0.25),
    }  # fmt: skip
    assert {name: value.item() for name, value in sums_of(outcome).items()} == pytest.approx(sums)


def test_means_of_the_data_are_used_by_channel():
    model = tiny_model(target="pixels")
    image = torch.tensor([0.4, 0.5, 0.6])[:, None, None].expand(3, 16, 24).mul(255).round().to(torch.uint8)
    batch = pictures(model.config, count=1) | {"image": image[None]}
    view = model.perturb(batch)
    expected = torch.tensor([(102 / 255 - 0.4) / 0.2, (128 / 255 - 0.5) / 0.25, (153 / 255 - 0.6) / 0.3])
    torch.testing.assert_close(model.target(batch, view), expected.repeat(1, 9, 32), rtol=1e-4, atol=1e-6)


def test_one_mean_serves_all_channels():
    one, three = (tiny_model(mean=(0.3,) * n, std=(0.2,) * n).eval() for n in (1, 3))
    batch = pictures(one.config)
    assert one(batch)["loss"].item() == three(batch)["loss"].item()
