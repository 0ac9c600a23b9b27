"""What all tasks that predict pictures promise, each of them with the trunk and, where that may differ, with timm."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_pixels import TASKS, batch_of, pictures, predict, select, stirred, tiny
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.features import freshly_initialised, frozen
from mmssl.evaluation.finetune import FinetuneConfig, finetune
from mmssl.predictors import load_predictor, outcome_of, sums_of
from mmssl.predictors.inpainting import Inpainting
from mmssl.predictors.pixels import PixelConfig, PixelPredictor
from mmssl.predictors.restoration import Restoration
from mmssl.training.optimizer import parameter_groups

EVERY_TASK = pytest.mark.parametrize("task", TASKS)
EVERY_MODE = pytest.mark.parametrize("training", [True, False])
BACKBONES = pytest.mark.parametrize("timm_model", ["", "resnet10t", "convnext_atto"])


# --- numbers of an outcome -------------------------------------------------------------------------------------------


@EVERY_TASK
@EVERY_MODE
@pytest.mark.parametrize("timm_model", ["", "resnet10t"])
def test_a_fresh_predictor_knows_nothing_beyond_the_trivial_guess(task, training, timm_model):
    model = tiny(task, timm_model=timm_model).train(training)
    outcome = model(pictures(model))
    assert outcome["reference"].item() > 1e-3
    assert outcome["skill"].item() == pytest.approx(0, abs=1e-6)
    for measure in ("psnr", "ssim"):
        if measure in outcome:
            assert outcome[measure].item() == outcome[measure + "_trivial"].item()


@EVERY_TASK
@EVERY_MODE
def test_outcomes_of_parts_join_to_that_of_the_whole(task, training):
    model = stirred(tiny(task)).train(training)
    batch = pictures(model, count=7)
    whole = model(batch)
    parts = [sums_of(model(select(batch, rows))) for rows in (slice(0, 2), slice(2, 7))]
    joined = outcome_of({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert joined.keys() == whole.keys()
    for name, value in joined.items():
        assert value.item() == pytest.approx(whole[name].item(), rel=1e-5, abs=1e-5), name
        assert not value.requires_grad
    assert [name for name, value in whole.items() if value.requires_grad] == ["loss"]


@EVERY_TASK
def test_gradients_of_parts_join_to_that_of_the_whole(task):
    """As the training loop accumulates: loss times count, added, divided by the counts of all."""
    model = stirred(tiny(task)).train()
    batch = pictures(model, count=5)

    def gradients(parts: list[slice]) -> dict[str, Tensor]:
        model.zero_grad()
        count = 0.0
        for rows in parts:
            outcome = model(select(batch, rows))
            (outcome["loss"] * outcome["count"]).backward()
            count += outcome["count"].item()
        return {name: p.grad / count for name, p in model.named_parameters() if p.grad is not None}

    whole, joined = gradients([slice(0, 5)]), gradients([slice(0, 1), slice(1, 5)])
    assert whole.keys() == dict(model.network.named_parameters(prefix="network")).keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(joined[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@EVERY_TASK
def test_the_truth_is_perfect(task):
    """Colours as classes have no such point: their truth is spread over neighbouring classes."""
    model = stirred(tiny(task)).eval()
    if task == "colour classes":
        pytest.skip("a softened truth is no prediction")
    batch = pictures(model)
    view = model.perturb(batch)
    truth = model.target(batch, view)
    outcome = outcome_of(model.score(truth / (100 if task == "colour regression" else 1), truth, view))
    assert outcome["loss"].item() == pytest.approx(0, abs=1e-9)
    assert outcome["skill"].item() == pytest.approx(1, abs=1e-6)


@EVERY_TASK
@EVERY_MODE
def test_arithmetic_of_the_loss_stays_fp32_under_autocast(task, training):
    model = stirred(tiny(task)).train(training)
    batch = pictures(model, count=8)
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outcome = model(batch)
        features = model.encode_clean(batch)
    assert {value.dtype for value in outcome.values()} == {torch.float32}
    assert {value.dtype for value in features.values()} == {torch.float32}
    assert outcome["reference"].item() == pytest.approx(exact["reference"].item(), rel=1e-6)
    assert outcome["loss"].item() == pytest.approx(exact["loss"].item(), rel=5e-3)
    outcome["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.network.decoder.parameters())


# --- masks and batches -----------------------------------------------------------------------------------------------


@EVERY_TASK
@EVERY_MODE
def test_samples_do_not_meet(task, training):
    model = stirred(tiny(task)).train(training)
    batch = pictures(model, count=5)
    whole, view = predict(model, batch), model.perturb(batch)
    some = select(batch, [3, 1])
    torch.testing.assert_close(predict(model, some), whole[[3, 1]], rtol=1e-4, atol=1e-5)
    assert torch.equal(model.perturb(some)["where"], view["where"][[3, 1]])


@EVERY_TASK
def test_evaluation_is_frozen_and_training_is_not(task):
    model = stirred(tiny(task)).eval()
    batch = pictures(model)
    first = model(batch)
    model.seed = 123456789
    assert all(torch.equal(value, first[name]) for name, value in model(batch).items())
    if isinstance(model, Inpainting | Restoration):
        model.train()
        inputs = [model.perturb(batch | {"epoch": batch["epoch"] + epoch})["input"] for epoch in (0, 0, 1)]
        assert torch.equal(inputs[0], inputs[1])
        assert not torch.equal(inputs[0], inputs[2])


@pytest.mark.parametrize("task", ["inpainting", "restoration of a mask"])
@EVERY_MODE
def test_the_prediction_knows_nothing_of_hidden_pixels(task, training):
    model = stirred(tiny(task)).train(training)
    batch = pictures(model)
    where = model.perturb(batch)["where"]
    noise = torch.randint(0, 256, batch["image"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    hidden, seen = (batch | {"image": torch.where(mask, noise, batch["image"])} for mask in (where, ~where))
    assert torch.equal(predict(model, hidden), predict(model, batch))
    assert not torch.allclose(predict(model, seen), predict(model, batch), rtol=1e-3)


@EVERY_TASK
def test_a_hidden_part_there_is(task):
    """What is predicted is what was taken: the view without the target differs from the picture."""
    model = tiny(task)
    view = model.perturb(pictures(model))
    assert view["where"].any(dim=(1, 2, 3)).all()
    assert (model.trivial_picture(view) - view["image"]).abs().amax((1, 2, 3)).min() > 0.01


# --- features --------------------------------------------------------------------------------------------------------


@EVERY_TASK
@BACKBONES
def test_clean_features_see_the_whole_picture_and_depend_on_nothing_else(task, timm_model):
    model = stirred(tiny(task, timm_model=timm_model)).eval()
    batch = pictures(model, count=2)
    features, layers = model.encode_clean(batch), model.encode_layers(batch)
    width = model.network.backbone.levels[-1][0]
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        name: (2, width) for name in (["mean"] if timm_model else ["mean", "cls"])
    }
    depth = len(model.network.backbone.levels) if timm_model else model.config.encoder.depth
    assert list(layers) == [*features, *(f"layer {number}" for number in range(1, depth))]
    assert all(torch.equal(layers[name], features[name]) for name in features)
    model.seed = 77
    again = model.encode_clean(batch | {"epoch": batch["epoch"] + 5, "id": batch["id"] + 1})
    assert all(torch.equal(again[name], features[name]) for name in features)
    height, width = model.config.image_size
    for row, column in ((0, 0), (height // 2, width - 4)):
        image = batch["image"].clone()
        image[:, :, row : row + 4, column : column + 4] = 255 - image[:, :, row : row + 4, column : column + 4]
        changed = model.encode_clean(batch | {"image": image})
        assert not torch.allclose(changed["mean"], features["mean"], rtol=1e-5, atol=1e-6)


@EVERY_TASK
@BACKBONES
def test_depths_name_exactly_the_backbone(task, timm_model):
    model = tiny(task, timm_model=timm_model)
    depths = model.parameter_depths()
    assert depths.keys() == dict(model.network.backbone.named_parameters(prefix="network.backbone")).keys()
    assert set(depths.values()) == set(range(max(depths.values()) + 1))


@pytest.mark.parametrize("timm_model", ["", "resnet10t"])
@pytest.mark.parametrize("task", ["colour classes", "inpainting", "super-resolution"])
def test_fine_tuning_trains_the_backbone_alone_and_learns(task, timm_model):
    model = tiny(task, timm_model=timm_model)
    batch = pictures(model, count=16)
    labels = torch.arange(16) % 2
    batch["image"][labels == 1, :, ::2] //= 4  # stripes
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = finetune(
        model, batch, labels, 2, seed=0, config=FinetuneConfig(steps=25, learning_rate=3e-3, batch_size=16)
    )
    assert (tuned(batch).argmax(1) == labels).float().mean() >= 0.9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    moved = {name for name, value in tuned.predictor.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= model.parameter_depths().keys()
    assert len(moved) > 0.9 * len(model.parameter_depths())


@EVERY_TASK
def test_an_untrained_twin_has_other_weights_and_the_same_observations(task):
    model = tiny(task).eval()
    if hasattr(model, "observe"):
        model.observe([pictures(model)])
    twin, batch = freshly_initialised(model, seed=3), pictures(model)
    assert not torch.allclose(frozen(twin)(batch)["mean"], frozen(model)(batch)["mean"], rtol=1e-2)
    assert twin(batch)["reference"].item() == model(batch)["reference"].item()


# --- on disk, in the optimizer, compiled -----------------------------------------------------------------------------


@EVERY_TASK
@BACKBONES
def test_a_saved_predictor_returns_identical(tmp_path, task, timm_model):
    model = stirred(tiny(task, timm_model=timm_model)).train()
    batch = pictures(model)
    if hasattr(model, "observe"):
        model.observe([batch])
    if timm_model:
        model(batch)  # moves the running statistics of batch norm
    model.save(tmp_path)
    again = load_predictor(tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    ours, theirs = model.eval()(batch), again(batch)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(again.encode_clean(batch)["mean"], model.encode_clean(batch)["mean"])


@pytest.mark.parametrize("timm_model", ["", "resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_only_matrices_and_kernels_decay(timm_model):
    model = tiny("super-resolution", timm_model=timm_model)
    groups = {group["weight_decay"]: group["names"] for group in parameter_groups(model, 0.05)}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert sorted(groups[0.05] + groups[0.0]) == sorted(shapes)
    special = ("bias", "cls_token", "pos_embed")
    assert {name for name in shapes if len(shapes[name]) > 1 and not name.endswith(special)} == set(groups[0.05])


PROGRAM = """
import sys
import torch
from tiny_pixels import pictures, stirred, tiny

for task in sys.argv[1:]:
    # of the least size: every level at which a hole is filled is traced
    size = (16, 32) if task == "super-resolution" else (8, 16)
    model = stirred(tiny(task, image_size=size)).train()
    batch = pictures(model)
    compiled = torch.compile(model, backend="aot_eager")
    expected, outcome = model(batch), compiled(batch)
    outcome["loss"].backward()
    assert outcome.keys() == expected.keys()
    for name, value in outcome.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert all(p.grad is not None for p in model.parameters())
    other = compiled(batch | {"epoch": batch["epoch"] + 1})["loss"]
    assert task != "inpainting" or not torch.equal(other, outcome["loss"]), "the hole was compiled in"
"""


def test_tasks_can_be_traced():
    """In a process of its own: the checks of shapes cannot be compiled."""
    command = [sys.executable, "-c", PROGRAM, "colour classes", "inpainting", "super-resolution"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parent, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


# --- pictures of users -----------------------------------------------------------------------------------------------


def given(model: PixelPredictor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """What a user would give: pictures perturbed already, and the pixels that are hidden."""
    view = model.perturb(batch)
    if isinstance(model, Restoration):
        return view["perturbed"], view["input"][:, -1:].bool()
    if isinstance(model, Inpainting):
        return torch.where(view["where"], 0.123, view["image"]), view["where"]
    return view.get("small", view["image"]), None


@EVERY_TASK
def test_restoring_a_picture_of_the_trained_size_is_what_training_does(task):
    model = stirred(tiny(task)).eval()
    batch = pictures(model)
    expected = model.reveal(batch)["predicted"]
    image, hidden = given(model, batch)
    assert tuple(image.shape[2:]) == model.tile
    model.train()
    torch.testing.assert_close(model.restore(image, hidden), expected, rtol=1e-5, atol=1e-6)
    assert model.training


@EVERY_TASK
@pytest.mark.parametrize("timm_model", ["", "resnet10t", "vit_tiny_patch16_224"])
def test_pictures_of_any_size_can_be_restored(task, timm_model):
    if timm_model.startswith("vit") and task != "inpainting":
        pytest.skip("one task is enough for a model that is slow to build")
    model = stirred(tiny(task, timm_model=timm_model)).eval()
    for height, width in ((1, 1), (1, 7), (16, 24), (19, 37)):
        image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        hidden = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(width)) < 0.3
        restored = model.restore(image, hidden)
        assert restored.shape == (2, 3, height * model.scale, width * model.scale)
        assert restored.isfinite().all()
        assert 0 <= restored.min() <= restored.max() <= 1
        torch.testing.assert_close(model.restore(image[1:], hidden[1:]), restored[1:], rtol=1e-4, atol=1e-5)


@EVERY_TASK
def test_what_is_revealed_are_pictures_with_their_measures(task):
    model = stirred(tiny(task)).train()
    batch = pictures(model)
    panels = model.reveal(batch)
    assert model.training
    for name in ("original", "perturbed", "trivial", "predicted", "composite"):
        assert panels[name].shape == batch["image"].shape
        assert 0 <= panels[name].min() <= panels[name].max() <= 1
    assert torch.equal(panels["original"], batch["image"] / 255)
    assert model.reveal_note
    outcome = model.eval()(batch)
    for measure in ("psnr", "ssim"):
        if measure in outcome:
            share = panels["hidden"].sum((1, 2, 3))
            for which in ("", "_trivial"):
                expected = (panels[measure + which] * share).sum() / share.sum()
                assert outcome[measure + which].item() == pytest.approx(expected.item(), rel=1e-4)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_mistakes_are_named():
    model = tiny("inpainting")
    batch = batch_of(torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match=r"pictures of \(3, 8, 8\) given, this model takes \(3, 16, 24\)"):
        model(batch)
    with pytest.raises(UserError, match="a picture of 4 channels given, this model takes 3"):
        model.restore(torch.rand(1, 4, 8, 8))
    for changes, sentence in (
        ({"std": (0.0,)}, "std must be positive"),
        ({"mean": (0.5, 0.5)}, "mean and std must have one number or 3"),
        ({"channels": 0}, "mean and std must have"),
        ({"encoder": None}, "either a trunk or a timm_model"),
        ({"timm_model": "resnet10t"}, "could not be"),
    ):
        if "timm_model" not in changes:
            with pytest.raises(UserError, match=sentence):
                tiny("inpainting", **changes)
    with pytest.raises(UserError, match="either a trunk or a timm_model"):
        PixelConfig(encoder=model.config.encoder, timm_model="resnet18", image_size=(32, 32))
    with pytest.raises(UserError, match="does not divide image size 16x20"):
        tiny("inpainting", image_size=(16, 20))
    with pytest.raises(UserError, match=r"multiples of 32 and 32, and would be given 32x32: choose|32x48"):
        tiny("inpainting", timm_model="resnet10t", image_size=(32, 48))
