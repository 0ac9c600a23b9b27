"""The masked predictor of clips: what it sees, what it is judged on, and what one sense tells about the other."""

import pytest
import torch
from tiny_clips import masked_model, talking, train

from mmssl.errors import UserError
from mmssl.predictors import load_predictor
from mmssl.predictors.audio_visual_masked import REGIMES
from mmssl.predictors.base import outcome_of, sums_of

pytest.importorskip("torchaudio")


def clips(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return talking(count, frames=16, size=16, seed=seed, corner=(6, 3), plain=True)


@pytest.fixture(scope="module")
def trained():
    """Looks up the other sense after some 250 steps, all at once."""
    model = masked_model(whole=1.0, cube=(1, 8, 8))
    train(model, [clips(16, seed) for seed in range(1, 9)], 300, 2e-3)
    return model


def test_nothing_of_what_is_hidden_is_seen():
    """Hidden tokens could be anything else: the prediction of all of them stays the same."""
    model = masked_model().eval()
    view = model.perturb(clips(3))
    for regime in [None, *REGIMES]:
        asked = view if regime is None else model.asking(view, regime, *REGIMES[regime])
        changed = dict(asked)
        changed["pictures"] = torch.where(asked["sight"][..., None], 7.0, asked["pictures"])
        changed["sounds"] = torch.where(asked["sound"][..., None], -7.0, asked["sounds"])
        with torch.no_grad():
            assert torch.equal(model.encode(asked), model.encode(changed)), regime


def test_every_regime_is_judged_on_the_same_hidden_places_of_its_sense():
    model = masked_model().eval()
    view = model.perturb(clips(3))
    visual = model.tokens.visual
    for name, (sound, sight) in REGIMES.items():
        asked = model.asking(view, name, sound, sight)
        judged = asked["judged"]
        assert torch.equal(judged[:, visual:], view["sound"] & name.startswith("sound"))
        assert torch.equal(judged[:, :visual], view["sight"] & name.startswith("sight"))
        hidden = torch.cat([asked["sight"], asked["sound"]], 1)
        assert (hidden | ~judged).all()  # nothing is judged that could be seen


def test_loss_weighs_both_senses_alike_and_is_that_of_the_definition():
    model, batch = masked_model().eval(), clips(3)
    with torch.no_grad():
        view = model.perturb(batch)
        prediction = model.predict(model.encode(view), view)
        outcome = model(batch)
    tokens, pictures, mel = model.tokens, batch["video"].float(), view["sounds"]
    moved = pictures - pictures.mean(1, keepdim=True)
    moved = tokens.cut_pictures(moved / (moved.square().mean((1, 2, 3, 4), keepdim=True)).sqrt())
    seen = (prediction[:, : tokens.visual, : tokens.pixels] - moved).square().mean(2)[view["sight"]]
    heard = (prediction[:, tokens.visual :, : tokens.mels] - mel).square().mean(2)[view["sound"]]
    ratio = tokens.visual / tokens.audio
    expected = (seen.sum() + ratio * heard.sum()) / (len(seen) + ratio * len(heard))
    assert float(outcome["loss"]) == pytest.approx(float(expected), rel=1e-3)
    trivial = moved.square().mean(2)[view["sight"]].sum() + ratio * mel.square().mean(2)[view["sound"]].sum()
    assert float(outcome["reference"]) == pytest.approx(float(trivial / (len(seen) + ratio * len(heard))), rel=1e-3)
    assert float(outcome["reference_sound_from_sight"]) == pytest.approx(
        float(mel.square().mean(2)[view["sound"]].mean()), rel=1e-4
    )
    assert float(outcome["mask_coverage"]) == pytest.approx((0.75 * tokens.visual + 0.5 * tokens.audio) / tokens.total)


def test_skills_of_a_batch_are_those_of_its_parts_joined():
    model, batch = masked_model().eval(), clips(4)
    with torch.no_grad():
        whole = model(batch)
        parts = [sums_of(model({name: value[half] for name, value in batch.items()}))
                 for half in (slice(0, 1), slice(1, 4))]  # fmt: skip
    joined = outcome_of({name: parts[0][name] + parts[1][name] for name in parts[0]})
    for name, value in whole.items():
        assert float(joined[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name


def test_senses_are_lost_as_often_as_asked():
    model, batch = masked_model(whole=0.6).train(), clips(1)
    many = {name: value.expand(4000, *value.shape[1:]) for name, value in batch.items() if name != "id"}
    key_batch = {"id": torch.arange(4000), "epoch": many["epoch"]}
    from mmssl.masking import NoiseKey

    sound, sight = model.masks(key_batch)
    lost_sound, lost_sight = model._lose_senses(NoiseKey.of(key_batch, 0), sound, sight)
    kinds = torch.stack([torch.where(x.all(1), 1, torch.where(x.any(1), 0, 2)) for x in (lost_sound, lost_sight)], 1)
    share = torch.zeros(3, 3).index_put_((kinds[:, 0], kinds[:, 1]), torch.ones(()), accumulate=True) / 4000
    # each hidden 0.3, visible 0.3, partly 0.4; both hidden or both visible become both partly
    expected = torch.tensor([[0.16 + 0.18, 0.12, 0.12], [0.12, 0, 0.09], [0.12, 0.09, 0]])
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)
    part = (kinds == 0).all(1)
    assert torch.equal(lost_sound[part], sound[part])
    rate = lost_sight[part].float().mean()
    assert float(rate) == pytest.approx(0.75, abs=1e-6)


def test_sight_tells_about_sound_and_sound_about_sight(trained):
    """Held-out clips whose mouth is as open as the sound is loud; with another clip's sound nothing is left of it."""
    batch = clips(24, 99)
    with torch.no_grad():
        outcome = trained(batch)
        mixed = trained(batch | {"audio": batch["audio"].roll(1, 0)})
    assert float(outcome["skill_sound_from_sight"]) > 0.3
    assert float(outcome["skill_sight_from_sound"]) > 0.05
    assert float(mixed["skill_sound_from_sight"]) < 0
    assert float(mixed["skill_sight_from_sound"]) < 0
    assert float(outcome["skill_sound_from_both"]) > float(outcome["skill_sound_from_sound"]) + 0.1


def test_what_is_saved_comes_back_and_is_shown(trained, tmp_path):
    trained.save(tmp_path)
    again, batch = load_predictor(tmp_path), clips(2, 98)
    for name, value in trained.encode_layers(batch).items():
        assert torch.equal(again.encode_layers(batch)[name], value)
    assert {"mean", "visual", "audio", "layer 1"} == again.encode_layers(batch).keys()
    shown = again.reveal(batch)
    hidden = shown["hidden"]
    assert torch.equal(shown["predicted"][~hidden], shown["original"][~hidden])
    assert (shown["perturbed"][hidden] == 0.5).all()
    assert hidden.float().mean() == 0.75
    assert not torch.equal(shown["predicted"][hidden], shown["original"][hidden])
    # closer to the truth than the mean picture is
    original = shown["original"]
    mean = original.mean(1, keepdim=True).expand_as(original)
    error = (shown["predicted"] - original)[hidden].square().mean()
    assert error < (mean - original)[hidden].square().mean()
    assert "borrowed" in again.reveal_note


def test_pixels_may_be_the_target():
    model, batch = masked_model(target="pixels").eval(), clips(2)
    with torch.no_grad():
        outcome, shown = model(batch), model.reveal(batch)
    assert float(outcome["reference_sight_from_sound"]) == pytest.approx(1.0, abs=0.25)
    # an untrained model predicts nothing: the mean brightness of the clip
    mean = shown["original"].mean((1, 2, 3, 4))
    assert float((shown["predicted_from_sound"].mean((1, 2, 3, 4)) - mean).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"visual_fraction": 1.0}, "visual_fraction must lie between 0 and 1"),
        ({"span": 14}, "span must be from 1 to 13"),
        ({"frames": 15}, "do not divide clips of 15 frames"),
        ({"cube": (2, 5, 8)}, "does not divide image size"),
        ({"whole": 1.5}, "whole must be a share"),
        ({"cube": (2, 16, 16)}, "leaves nothing visible"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        masked_model(**changes)


def test_clips_of_another_length_are_refused():
    with pytest.raises(UserError, match="takes clips of 16 frames, got 18"):
        masked_model()(talking(2, frames=18, size=16))
