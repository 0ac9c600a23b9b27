"""What a masked autoencoder sees, hides, decodes and shows."""

import pytest
import torch
from tiny_autoencoder import (
    ARCHITECTURES,
    SAMPLERS,
    TARGETS,
    hidden_pixels,
    pictures,
    scrambled,
    select,
    tiny_model,
)
from torch import Tensor

from mmssl.masking import hidden_count
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder

EVERY_ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
EVERY_TARGET = pytest.mark.parametrize("target", TARGETS)


def predict(model: MaskedAutoencoder, batch: dict[str, Tensor]) -> Tensor:
    view = model.perturb(batch)
    return model.predict(model.encode(view), view)


# --- nothing leaks ---------------------------------------------------------------------------------------------------


@EVERY_ARCHITECTURE
@EVERY_SAMPLER
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_the_prediction_knows_nothing_of_hidden_pixels(architecture, sampler, training, positions):
    model = tiny_model(architecture=architecture, sampler=sampler, positions=positions).train(training)
    batch = pictures(model.config)
    hidden = hidden_pixels(model, batch)
    other = scrambled(batch, hidden)
    assert not torch.equal(other["image"], batch["image"])
    assert torch.equal(predict(model, other), predict(model, batch))
    # and the test would notice a change that counts
    seen = scrambled(batch, ~hidden)
    assert not torch.allclose(predict(model, seen), predict(model, batch), rtol=1e-3)


@EVERY_ARCHITECTURE
def test_samples_do_not_meet(architecture):
    model = tiny_model(architecture=architecture).train()
    batch = pictures(model.config, count=5)
    whole = predict(model, batch)
    torch.testing.assert_close(predict(model, select(batch, [3, 1])), whole[[3, 1]])


# --- masks -----------------------------------------------------------------------------------------------------------


@EVERY_SAMPLER
@pytest.mark.parametrize("mask_fraction", [0.1, 0.5, 0.75, 0.9])
def test_the_stated_share_is_hidden_in_every_sample(sampler, mask_fraction):
    model = tiny_model(sampler=sampler, mask_fraction=mask_fraction)
    plan = model.perturb(pictures(model.config, count=20))["plan"]
    assert (plan.hidden.sum(1) == hidden_count(12, mask_fraction)).all()


def test_masks_of_training_change_with_epoch_and_seed_and_sample():
    model = tiny_model().train()

    def masks(epoch: int, seed: int) -> Tensor:
        model.seed = seed
        return model.perturb(pictures(model.config, count=30, epoch=epoch))["plan"].hidden

    first = masks(0, 0)
    assert torch.equal(masks(0, 0), first)
    for other in (masks(1, 0), masks(0, 1)):
        # two independent draws of 9 out of 12 agree with a probability of 1 in 220
        assert (other == first).all(1).sum() < 4
    assert len(first.unique(dim=0)) > 20


@EVERY_SAMPLER
def test_masks_of_evaluation_are_frozen(sampler):
    """Evaluation batches carry epoch 0; what is left that could change them, the run's seed, does not."""
    model = tiny_model(sampler=sampler).eval()
    batch = pictures(model.config, count=6)
    first = model.perturb(batch)["plan"].hidden
    for seed in (1, 123456789):
        model.seed = seed
        assert torch.equal(model.perturb(batch)["plan"].hidden, first)
        assert torch.equal(model.train().eval().perturb(select(batch, [4, 0]))["plan"].hidden, first[[4, 0]])


# --- what is decoded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_cross_mae_decodes_the_stated_share_in_training_and_all_in_evaluation(share):
    model = tiny_model(architecture="cross_mae", decoded_fraction=share).train()
    batch = pictures(model.config, count=40)
    view = model.perturb(batch)
    decoded, plan = view["decoded_ids"], view["plan"]
    assert decoded.shape == (40, round(9 * share))
    assert plan.hidden.gather(1, decoded).all()
    assert (decoded.sort(1).values.diff(dim=1) > 0).all()  # none twice
    assert predict(model, batch).shape == (40, round(9 * share), 96)
    model.eval()
    assert torch.equal(model.perturb(batch)["decoded_ids"], model.perturb(batch)["plan"].hidden_ids)


@pytest.mark.parametrize("architecture", ["mae", "simmim"])
def test_the_other_architectures_always_decode_all(architecture):
    model = tiny_model(architecture=architecture, decoded_fraction=0.25).train()
    view = model.perturb(pictures(model.config))
    assert torch.equal(view["decoded_ids"], view["plan"].hidden_ids)


def test_the_choice_of_decoded_patches_changes_with_sample_and_epoch_and_favours_none():
    model = tiny_model(architecture="cross_mae", decoded_fraction=1 / 3).train()
    count, epochs = 2000, 2

    def ranks(epoch: int) -> Tensor:
        """Which of its hidden patches each sample decodes, [sample, 9]."""
        view = model.perturb(pictures(model.config, count=count, epoch=epoch))
        chosen = torch.zeros(count, 12, dtype=torch.bool).scatter_(1, view["decoded_ids"], True)
        return view["plan"].take_hidden(chosen)

    first, second = ranks(0), ranks(1)
    assert len(first.unique(dim=0)) == 84  # all ways to choose 3 of 9
    # independent choices agree with a probability of 1 in 84
    assert (first == second).all(1).double().mean() < 3 / 84
    share = torch.cat([first, second]).double().mean(0)
    assert (share - 1 / 3).abs().max() < 5 * (1 / 3 * 2 / 3 / (count * epochs)) ** 0.5


def test_full_decoding_of_cross_mae_contains_the_part():
    """What a patch is predicted to be does not depend on which others are decoded."""
    part = tiny_model(architecture="cross_mae", decoded_fraction=0.5).train()
    full = tiny_model(architecture="cross_mae", decoded_fraction=1.0).train()
    batch = pictures(part.config)
    ids, everything = part.perturb(batch)["decoded_ids"], full.perturb(batch)["plan"].hidden_ids
    for row in range(4):
        places = [everything[row].tolist().index(position) for position in ids[row].tolist()]
        torch.testing.assert_close(predict(part, batch)[row], predict(full, batch)[row, places])


# --- features --------------------------------------------------------------------------------------------------------


@EVERY_ARCHITECTURE
def test_clean_features_see_the_whole_picture_and_depend_on_nothing_else(architecture):
    model = tiny_model(architecture=architecture, mask_fraction=0.9).train()
    batch = pictures(model.config)
    features = model.encode_clean(batch)
    assert {name: tuple(value.shape) for name, value in features.items()} == {"mean": (4, 16), "cls": (4, 16)}
    model.seed = 77
    again = model.eval().encode_clean(batch | {"epoch": batch["epoch"] + 5, "id": batch["id"] + 1})
    for name, value in features.items():
        assert value.dtype == torch.float32
        assert torch.equal(again[name], value)
    # a change of any patch shows: nothing is hidden
    for row in range(4):
        for column in range(3):
            where = torch.zeros(1, 1, 16, 24, dtype=torch.bool)
            where[:, :, 4 * row : 4 * row + 4, 8 * column : 8 * column + 8] = True
            changed = model.encode_clean(scrambled(batch, where))
            assert all(not torch.allclose(changed[name], features[name]) for name in features)


def test_clean_features_are_named_rightly():
    model = tiny_model().eval()
    batch = pictures(model.config)
    tokens = model.encoder(model.embed_clean(batch))
    features = model.encode_clean(batch)
    torch.testing.assert_close(features["cls"], tokens[:, 0])
    torch.testing.assert_close(features["mean"], tokens[:, 1:].sum(1) / 12)


def test_layers_are_the_residual_stream_and_end_with_the_clean_features():
    model = tiny_model().eval()
    batch = pictures(model.config)
    features, layers = model.encode_clean(batch), model.encode_layers(batch)
    depth = model.config.encoder.depth
    assert list(layers) == ["mean", "cls", *(f"layer {number}" for number in range(1, depth))]
    for name in features:
        torch.testing.assert_close(layers[name], features[name])
    first = model.encoder.blocks[0](model.embed_clean(batch))
    torch.testing.assert_close(layers["layer 1"], first[:, 1:].mean(1))


def test_nothing_hidden_would_give_the_clean_tokens():
    """The visible tokens of a mask that hides one patch equal the clean path's input at these places."""
    model = tiny_model(mask_fraction=0.1).eval()
    batch = pictures(model.config)
    view, seen = model.perturb(batch), {}
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.update(tokens=arguments[0]))
    model.encode(view)
    clean = model.embed_clean(batch)
    torch.testing.assert_close(seen["tokens"][:, 0], clean[:, 0])
    torch.testing.assert_close(seen["tokens"][:, 1:], view["plan"].take_visible(clean[:, 1:]))


# --- training --------------------------------------------------------------------------------------------------------


@EVERY_ARCHITECTURE
@EVERY_TARGET
@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_the_gradient_reaches_every_parameter(architecture, target, positions):
    """cls included, which decoder or hidden patches attend to. Within the fused projection the key's bias gets none:
    it adds the same to all scores of a query, and softmax takes it out again."""
    model = tiny_model(architecture=architecture, target=target, positions=positions).train()
    model(pictures(model.config, count=40))["loss"].backward()  # so many that every position is visible somewhere
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        rows = gradient.flatten(1).norm(dim=1) if gradient.ndim > 1 else gradient.abs()
        if name.endswith("qkv.bias"):
            query, key, value = rows.chunk(3)
            assert (key < 1e-7).all(), name
            rows = torch.cat([query, value])
        assert (rows > 1e-9).all(), name


@pytest.mark.parametrize("target", TARGETS)
@EVERY_ARCHITECTURE
def test_arithmetic_of_the_loss_stays_fp32_under_autocast(architecture, target):
    model = tiny_model(architecture=architecture, target=target)
    batch = pictures(model.config, count=16)
    for mode in (True, False):
        model.train(mode)
        exact = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outcome = model(batch)
        assert {value.dtype for value in outcome.values()} == {torch.float32}
        assert outcome["reference"].item() == pytest.approx(exact["reference"].item(), rel=1e-6)
        # an independent error of 2^-9 an entry all but averages out
        assert outcome["loss"].item() == pytest.approx(exact["loss"].item(), rel=5e-3)
    model.zero_grad()
    outcome["loss"].backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {value.dtype for value in model.encode_clean(batch).values()} == {torch.float32}


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@EVERY_ARCHITECTURE
@EVERY_SAMPLER
def test_the_gpu_gives_what_the_cpu_gives(architecture, sampler):
    model = tiny_model(architecture=architecture, sampler=sampler)
    batch = pictures(model.config, count=8)
    on_gpu = {name: value.cuda() for name, value in batch.items()}
    for mode in (True, False):
        model.cpu().train(mode)
        expected, shown = model(batch), model.reveal(batch)
        model.cuda()
        for name, value in model(on_gpu).items():
            assert value.item() == pytest.approx(expected[name].item(), rel=1e-3), name
        for name, value in model.reveal(on_gpu).items():
            torch.testing.assert_close(value.cpu(), shown[name], rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@EVERY_ARCHITECTURE
def test_a_step_on_the_gpu_does_not_wait_for_the_device(architecture):
    model = tiny_model(architecture=architecture).cuda().train()
    batch = {name: value.cuda() for name, value in pictures(model.config, count=8).items()}
    model(batch)["loss"].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(batch)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
