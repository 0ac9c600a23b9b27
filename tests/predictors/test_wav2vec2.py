"""wav2vec 2.0: same maths as transformers', masks and negatives by the law, references that mean something."""

import math

import pytest
import torch
from tiny_audio import LENGTHS, one_of, recordings, wav2vec2

from mmssl.errors import UserError
from mmssl.interchange.wav2vec2.parity import negatives_of
from mmssl.masking.theory import span_coverage
from mmssl.nn.quantizer import perplexity
from mmssl.predictors import load_predictor
from mmssl.predictors.wav2vec2 import PRESETS, Wav2Vec2

EXACT = ["loss", "reference", "contrastive_loss", "accuracy", "excluded_negatives", "feature_penalty"]
"""Outcomes of a batch that are those of its recordings one by one; diversity is that of the batch."""


def peer_of(model: Wav2Vec2):
    transformers = pytest.importorskip("transformers")
    from mmssl_wav2vec2 import copy_to_wav2vec2

    return copy_to_wav2vec2(model, transformers)


def attention_of(batch) -> torch.Tensor:
    return (torch.arange(batch["audio"].shape[1]) < batch["length"][:, None]).long()


@pytest.mark.parametrize(("front_end", "lengths"), [("group", [12_000, 12_000]), ("layer", LENGTHS)])
def test_loss_and_gradients_equal_those_of_transformers(front_end, lengths, monkeypatch):
    """In training: the same masks, negatives and Gumbel noise there and here, diversity included."""
    model = wav2vec2(front_end, feature_penalty_weight=0.0, feature_gradient=1.0).train()
    peer = peer_of(model).train()
    batch = recordings(lengths)
    view = model.perturb(batch)
    outcome = model.score(model.predict(model.encode(view), view), model.target(batch, view), view)
    outcome["loss"].backward()

    entry, frames, hidden = view["quantized"].entry, view["frames"], view["hidden"]

    def same_noise(logits, tau, hard):
        """Theirs quantizes all frames; what it would draw at hidden ones is what ours drew."""
        assert hard
        assert tau == 2
        index = frames.put_back(hidden.spread(entry.float(), frames.packing.total, 0.0)).long()
        return torch.nn.functional.one_hot(index.flatten(), logits.shape[-1]).float() + 0 * logits

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", same_noise)
    audio = torch.cat([torch.nn.functional.pad(standardised(one_of(batch, row)["audio"]), (0, max(lengths) - length))
                       for row, length in enumerate(lengths)])  # fmt: skip
    output = peer(
        audio,
        attention_mask=attention_of(batch) if front_end == "layer" else None,
        mask_time_indices=hidden.mask,
        sampled_negative_indices=negatives_of(view),
    )
    output.loss.backward()
    torch.testing.assert_close(outcome["loss"], output.loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outcome["contrastive_loss"], output.contrastive_loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outcome["diversity_loss"], output.diversity_loss, rtol=1e-4, atol=1e-4)
    pairs = {
        "project_hidden.weight": "project_hid.weight",
        "project_code.weight": "project_q.weight",
        "encoder.mask_token": "wav2vec2.masked_spec_embed",
        "encoder.positions.direction": "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        "encoder.trunk.blocks.0.mlp.fc1.weight": "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight",
    }
    for ours, theirs in pairs.items():
        one, other = model.get_parameter(ours).grad, peer.get_parameter(theirs).grad
        assert one is not None
        assert (one - other).norm() < 1e-3 * other.norm()


def standardised(audio: torch.Tensor) -> torch.Tensor:
    return (audio - audio.mean()) / (audio.var(unbiased=False) + 1e-7).sqrt()


def test_torchaudio_is_a_second_witness():
    pytest.importorskip("torchaudio")
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    model = wav2vec2("layer").eval()
    witness = import_huggingface_model(peer_of(model).wav2vec2).eval()
    batch = recordings([9000])
    with torch.no_grad():
        expected, _ = witness(standardised(batch["audio"]))
        features, _ = model.encode_frames(batch)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("front_end", ["group", "layer", "mel"])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_of_a_batch_is_that_of_its_recordings_one_by_one(front_end, training):
    model, batch = wav2vec2(front_end, diversity_weight=0.0).train(training), recordings(LENGTHS)
    whole = model(batch)
    total, count = dict.fromkeys(EXACT, 0.0), 0.0
    for row in range(len(LENGTHS)):
        model.updates.zero_()
        outcome = {name: float(value.detach()) for name, value in model(one_of(batch, row)).items()}
        count += outcome["count"]
        for name in EXACT:
            total[name] += outcome[name] * outcome["count"]
    assert float(whole["count"]) == count
    for name in EXACT:
        assert float(whole[name].detach()) == pytest.approx(total[name] / count, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("front_end", ["group", "mel"])
def test_masks_and_negatives_do_not_depend_on_neighbours(front_end):
    model, batch = wav2vec2(front_end), recordings(LENGTHS)
    view = model.perturb(batch)
    for row in range(len(LENGTHS)):
        alone = model.perturb(one_of(batch, row))
        frames, count = int(alone["frames"].lengths), int(alone["hidden"].counts)
        assert torch.equal(view["hidden"].mask[row, :frames], alone["hidden"].mask[0, :frames])
        assert not view["hidden"].mask[row, frames:].any()
        assert torch.equal(view["negatives"][row, :count], alone["negatives"][0, :count])


def test_the_share_hidden_is_the_one_stated_and_every_recording_hides_a_span():
    model = wav2vec2("mel", mask_fraction=0.49)
    assert model.config.mask_fraction == pytest.approx(span_coverage(0.065, 10), abs=0.002)
    batch = recordings([40_000] * 20)
    view = model.perturb(batch)
    assert float(model(batch)["mask_coverage"]) == pytest.approx(0.49, abs=0.005)
    runs = (view["hidden"].mask[:, 1:] & ~view["hidden"].mask[:, :-1]).sum(1) + view["hidden"].mask[:, 0]
    assert (view["hidden"].mask.sum(1) / runs).mean() > 10
    assert (model.perturb(recordings(LENGTHS))["hidden"].counts > 0).all()


def test_recordings_of_a_frame_or_none_are_left_alone():
    model = wav2vec2("group")
    outcome = model(recordings([4000, 1100, 420, 300]))
    outcome["loss"].backward()
    assert float(outcome["count"]) == 12 - int(12 * 0.51) + 3 - int(3 * 0.51)
    assert all(value.isfinite() for value in outcome.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert float(model(recordings([420])).pop("loss").detach()) == 0
    with pytest.raises(UserError, match="shorter than the 400 samples of one frame"):
        model(recordings([300, 200]))


def test_negatives_come_from_the_same_recording_only():
    """The loss of one recording does not change with what another one says."""
    model, batch = wav2vec2("layer").eval(), recordings([9000, 9000])
    other = {name: value.clone() for name, value in batch.items()}
    other["audio"][1] = recordings([9000], seed=7)["audio"][0]
    terms = []
    for each in (batch, other):
        view = model.perturb(each)
        similarity = model._similarity(
            model.predict(model.encode(view), view), model.target(each, view), view["hidden"]
        )
        logits = similarity / 0.1 + model._candidates(view)[0].log()
        terms.append(logits.log_softmax(-1).diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(terms[0][0], terms[1][0], rtol=1e-5, atol=1e-5)
    assert abs(float((terms[0][1] - terms[1][1]).detach())) > 0.01


def test_the_loss_is_that_over_a_list_of_candidates():
    """Written out as in the paper, a frame at a time."""
    model, batch = wav2vec2("layer").eval(), recordings([9000, 4000])
    view = model.perturb(batch)
    prediction, target = model.predict(model.encode(view), view), model.target(batch, view)
    hidden, entry = view["hidden"], view["quantized"].entry
    total, chance, excluded, drawn, place = 0.0, 0.0, 0, 0, 0
    for row, count in enumerate(hidden.counts.tolist()):
        for rank in range(count):
            own = place + rank
            others = [place + other for other in view["negatives"][row, rank].tolist()]
            kept = [other for other in others if not torch.equal(entry[other], entry[own])]
            candidates = target[[own, *kept]]
            cosines = torch.cosine_similarity(prediction[own][None], candidates, dim=-1)
            total += float(-(cosines.detach() / 0.1).log_softmax(0)[0])
            chance += math.log(1 + len(kept))
            excluded, drawn = excluded + len(others) - len(kept), drawn + len(others)
        place += count
    outcome = model(batch)
    assert float(outcome["loss"].detach()) == pytest.approx(total / place, rel=1e-4)
    assert float(outcome["reference"]) == pytest.approx(chance / place, rel=1e-4)
    assert float(outcome["excluded_negatives"]) == pytest.approx(excluded / drawn, rel=1e-4)
    assert excluded > 0


def test_a_collapsed_codebook_shows_and_is_no_skill():
    """All negatives equal the positive: the loss is 0, and so is chance (transformers, issue 14387)."""
    model = wav2vec2("mel").eval()
    with torch.no_grad():
        model.quantizer.logits.bias[[3, 16 + 5]] = 1e4
    outcome = model(recordings(LENGTHS))
    assert float(outcome["excluded_negatives"]) == 1
    assert float(outcome["code_perplexity"]) == pytest.approx(2)
    assert float(outcome["reference"]) == float(outcome["loss"].detach()) == 0
    assert not float(outcome["skill"]) > 0


def test_evaluation_is_frozen_and_its_loss_is_the_contrastive_one():
    """In transformers' and fairseq's evaluation the loss once was 0, or drawn anew each time."""
    batch = recordings(LENGTHS)
    first = wav2vec2("mel").eval()
    second = wav2vec2("mel", mask_fraction=0.3, span=4).eval()
    outcome, again = first(batch), first(batch)
    assert all(torch.equal(outcome[name], again[name]) for name in outcome)
    assert torch.equal(first.perturb(batch)["hidden"].mask, second.perturb(batch)["hidden"].mask)
    assert float(outcome["loss"].detach()) == float(outcome["contrastive_loss"])
    assert float(outcome["loss"].detach()) > 0
    assert float(outcome["reference"]) == pytest.approx(math.log(11), abs=0.2)


def test_every_parameter_learns():
    """The quantizer too, and the convolutions, whose gradient is scaled."""
    gradients = {}
    for scale in (1.0, 0.1):
        model = wav2vec2("group", feature_gradient=scale, diversity_weight=0.0)
        model(recordings(LENGTHS))["loss"].backward()
        assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
        gradients[scale] = {name: p.grad for name, p in model.named_parameters()}
    for name, gradient in gradients[1.0].items():
        factor = 0.1 if name.startswith("encoder.front_end.") else 1.0
        torch.testing.assert_close(gradients[0.1][name], factor * gradient, rtol=1e-3, atol=1e-5)


def test_in_training_the_loss_is_the_sum_of_its_terms():
    outcome = wav2vec2("group").train()(recordings([12_000] * 2))
    expected = outcome["contrastive_loss"] + 0.1 * outcome["diversity_loss"] + 10 * outcome["feature_penalty"]
    torch.testing.assert_close(outcome["loss"].detach(), expected)
    size = 2 * 16
    assert float(outcome["diversity_loss"]) == pytest.approx(
        1 - float(outcome["code_perplexity_soft"]) / size, rel=1e-5
    )
    silent = wav2vec2("mel").train()(recordings([12_000] * 2))
    expected = silent["contrastive_loss"] + 0.1 * silent["diversity_loss"]
    torch.testing.assert_close(silent["loss"].detach(), expected)


def test_the_penalty_is_the_mean_square_of_real_features():
    model, batch = wav2vec2("group"), recordings([9000])
    features = model.perturb(batch)["features"]
    assert float(model(batch)["feature_penalty"]) == pytest.approx(float(features.square().mean().detach()), rel=1e-5)


def test_the_temperature_falls_with_training_batches_and_is_saved(tmp_path):
    model, batch = wav2vec2("mel", gumbel_decay=0.5), recordings([4000])
    seen = [float(model(batch)["temperature"]) for _ in range(4)]
    assert seen == [2.0, 1.0, 0.5, 0.5]
    model.eval()(batch)
    model.reveal(batch)
    assert float(model.updates) == 4
    model.save(tmp_path)
    again = load_predictor(tmp_path)
    assert float(again.updates) == 4
    assert {n: float(v.detach()) for n, v in again(batch).items()} == {
        n: float(v.detach()) for n, v in model(batch).items()
    }
    decayed = wav2vec2("mel")
    decayed.updates.fill_(100_000)
    assert float(decayed.gumbel_temperature()) == pytest.approx(2 * 0.999995**100_000, rel=1e-6)


@pytest.mark.parametrize("front_end", ["group", "layer", "mel"])
def test_features_of_a_recording_do_not_depend_on_its_neighbours(front_end):
    model, batch = wav2vec2(front_end).eval(), recordings(LENGTHS)
    mean, (padded, lengths) = model.encode_clean(batch)["mean"], model.encode_frames(batch)
    layers = model.encode_layers(batch)
    assert layers.keys() == {"mean", "quarters", "layer 1"}
    torch.testing.assert_close(layers["mean"], mean)
    for row in range(len(LENGTHS)):
        alone = one_of(batch, row)
        torch.testing.assert_close(model.encode_clean(alone)["mean"][0], mean[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            model.encode_layers(alone)["layer 1"][0], layers["layer 1"][row], rtol=1e-4, atol=1e-4
        )
        frames, length = model.encode_frames(alone)
        assert int(length) == int(lengths[row])
        torch.testing.assert_close(frames[0], padded[row, : int(length)], rtol=1e-4, atol=1e-4)


def test_reveal_shows_ranks_at_hidden_steps_only():
    model, batch = wav2vec2("group"), recordings(LENGTHS)
    shown = model.reveal(batch)
    assert model.training
    hidden = shown["hidden"]
    assert ((shown["rank"] >= 0) == hidden).all()
    assert ((shown["target"] >= 0).all(-1) == hidden).all()
    assert (shown["similarity"][~hidden] == 0).all()
    assert shown["similarity"].abs().max() <= 1.0001
    share = float((shown["rank"][hidden] == 0).float().mean())
    assert share == pytest.approx(float(model.eval()(batch)["accuracy"]), abs=0.05)
    same = shown["original"] == shown["perturbed"]
    assert not same.all()
    assert same.any()


def test_it_learns_to_tell_frames_apart():
    """Tones that stay: what is visible around a span says what is in it."""
    torch.manual_seed(0)
    model = Wav2Vec2(wav2vec2("mel", negatives=20).config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def tones(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        pitch = 200 + 5000 * torch.rand(8, 2, generator=generator)
        phase = 2 * math.pi * (pitch.repeat_interleave(8100, 1) / 16_000).cumsum(1)
        batch = recordings([16_200] * 8, seed)
        return batch | {"audio": phase.sin() + 0.01 * batch["audio"], "id": batch["id"] + 8 * seed}

    for step in range(80):
        model(tones(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    outcome = model.eval()(tones(1000))
    assert float(outcome["skill"]) > 0.12  # 0 knows nothing; 0.16 was seen
    assert float(outcome["code_perplexity"]) > 6


def test_presets_have_the_published_sizes():
    base, large = PRESETS["base"](), PRESETS["large"]()
    with torch.device("meta"):
        assert round(sum(p.numel() for p in Wav2Vec2(base).parameters()) / 1e6) == 95
        assert round(sum(p.numel() for p in Wav2Vec2(large).parameters()) / 1e6) == 317
    assert base.encoder.trunk.norm == "post"
    assert large.encoder.front_end.norm == "layer"


def test_depths_cover_the_encoder():
    model = wav2vec2("group")
    depths = model.parameter_depths()
    assert {name for name, _ in model.named_parameters() if name.startswith("encoder.")} == set(depths)
    assert depths["encoder.front_end.convolutions.0.weight"] == 0
    assert depths["encoder.trunk.blocks.1.mlp.fc1.weight"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_fraction": 1.0}, "mask_fraction"),
        ({"span": 0}, "span"),
        ({"negatives": 0}, "negatives"),
        ({"temperature": 0.0}, "temperatures"),
        ({"gumbel_end": 3.0}, "temperatures"),
        ({"diversity_weight": -1.0}, "cannot be negative"),
        ({"quantizer_dropout": 1.0}, "quantizer_dropout"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        wav2vec2(**changes)


def test_perplexities_are_between_groups_and_all_entries():
    outcome = wav2vec2("mel").eval()(recordings(LENGTHS))
    for name in ("code_perplexity", "code_perplexity_soft"):
        assert 2 <= float(outcome[name]) <= 32
    assert float(perplexity(torch.full((2, 16), 1 / 16))) == pytest.approx(32)


@pytest.mark.gpu
@pytest.mark.parametrize("front_end", ["group", "layer", "mel"])
def test_the_gpu_hides_the_same_and_gets_the_same_loss_without_waiting(front_end):
    model, batch = wav2vec2(front_end), recordings(LENGTHS)
    here, mask = model(batch), model.perturb(batch)["hidden"].mask
    model.cuda().updates.zero_()
    there = {name: value.cuda() for name, value in batch.items()}
    outcome = model(there)
    assert torch.equal(model.perturb(there)["hidden"].mask.cpu(), mask)
    for name, value in outcome.items():
        assert float(value.detach()) == pytest.approx(float(here[name].detach()), rel=1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(there)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kept_frames_are_asked_about_and_seen():
    model, batch = wav2vec2("mel", keep_fraction=0.4, mask_fraction=0.3, span=2), recordings(LENGTHS)
    plain = wav2vec2("mel", mask_fraction=0.3, span=2).train().perturb(batch)["hidden"]
    hidden = model.train().perturb(batch)["hidden"]
    assert torch.equal(hidden.mask, plain.mask)
    assert len(hidden.ids[0]) > 1.3 * len(plain.ids[0])
    assert set(plain.ids[0].tolist()) < set(hidden.ids[0].tolist())
    outcome = model(batch)
    frames = model.frames(batch["length"])
    assert float(outcome["count"]) == len(hidden.ids[0])
    assert float(outcome["mask_coverage"]) == pytest.approx(float(plain.mask.sum() / frames.sum()))
    evaluated = model.eval().perturb(batch)["hidden"]
    assert len(evaluated.ids[0]) == int(evaluated.mask.sum())


def test_codes_can_be_made_of_cepstra():
    model, batch = wav2vec2("mel", cepstra=6).eval(), recordings(LENGTHS)
    view = model.perturb(batch)
    mel = model.encoder.front_end.spectrogram_of(batch["audio"])
    cepstra = model.encoder.front_end.cepstra(mel, batch["length"], view["frames"], 6)
    assert cepstra.shape[1] == 12
    wanted = model.quantizer(cepstra[view["hidden"].ids[0]])
    assert torch.equal(view["quantized"].entry, wanted.entry)


@pytest.mark.parametrize(("front_end", "cepstra"), [("group", 1), ("mel", 21)])
def test_more_cepstra_than_mels_are_refused(front_end, cepstra):
    with pytest.raises(UserError, match="cepstra"):
        wav2vec2(front_end, cepstra=cepstra)
