"""wav2vec 2.0: our runs in transformers, theirs here, and back, with the same features and losses each way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interchange_tiny import same_weights

from mmssl.errors import UserError
from mmssl.interchange import adapt_audio_config, export, load_initial_audio_weights
from mmssl.interchange.wav2vec2.names import wav2vec2_to
from mmssl.interchange.wav2vec2.parity import negatives_of, probe_batch
from mmssl.nn import AudioEncoderConfig, MelConfig, QuantizerConfig, TransformerConfig, WaveformConfig
from mmssl.predictors import load_predictor
from mmssl.predictors.best_rq import BestRQ, BestRQConfig
from mmssl.predictors.wav2vec2 import PRESETS, Wav2Vec2, Wav2Vec2Config

transformers = pytest.importorskip("transformers")

TRUNK = TransformerConfig(
    dim=32, depth=3, heads=4, mlp_dim=48, norm="post", norm_epsilon=1e-5, dropout=0.1, attention_dropout=0.2
)
MEL = AudioEncoderConfig(TRUNK, MelConfig(mels=20, stack=2), position_kernel=6, position_groups=4)


def config(norm: str = "group", **changes) -> Wav2Vec2Config:
    trunk = replace(TRUNK, norm="pre" if norm == "layer" else "post")
    front_end = WaveformConfig(dim=16, norm=norm, bias=norm == "layer", normalize=norm == "layer")
    encoder = AudioEncoderConfig(trunk, front_end, position_kernel=16, position_groups=4, input_dropout=0.15)
    made = Wav2Vec2Config(encoder, QuantizerConfig(2, 12, 24), projection_dim=20, negatives=10, quantizer_dropout=0.05)
    return replace(made, **changes)


@torch.no_grad()
def disturb(module: torch.nn.Module, seed: int) -> None:
    """No zeros and ones that a mix-up could hide behind."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def run_of(folder: Path, norm: str = "group", seed: int = 0, **changes) -> Wav2Vec2:
    torch.manual_seed(seed)
    model = Wav2Vec2(config(norm, **changes)).eval()
    disturb(model, seed)
    model.save(folder / "model")
    return model


def theirs_in(folder: Path, kind: str = "Wav2Vec2ForPreTraining", norm: str = "group", **changes):
    torch.manual_seed(1)
    settings = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
        "conv_dim": (16,) * 7, "feat_extract_norm": norm, "conv_bias": norm == "layer",
        "do_stable_layer_norm": norm == "layer", "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        "num_codevectors_per_group": 12, "codevector_dim": 24, "proj_codevector_dim": 20, "num_negatives": 10,
        "vocab_size": 9,
    }  # fmt: skip
    model = getattr(transformers, kind)(transformers.Wav2Vec2Config(**settings | changes)).eval()
    disturb(model, 2)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def assert_same(ours: Wav2Vec2, theirs) -> None:
    """Features of every frame, and the loss of the same masks and negatives."""
    batch = probe_batch(ours, (40, 40))
    view = ours.perturb(batch)
    audio = batch["audio"]
    if ours.config.encoder.front_end.normalize:
        audio = (audio - audio.mean(1, keepdim=True)) / (audio.var(1, keepdim=True, unbiased=False) + 1e-7).sqrt()
    torch.testing.assert_close(
        ours.encode_frames(batch)[0], theirs.wav2vec2(audio).last_hidden_state, rtol=0, atol=1e-4
    )
    output = theirs(audio, mask_time_indices=view["hidden"].mask, sampled_negative_indices=negatives_of(view))
    count = view["hidden"].counts.sum()
    assert abs(ours(batch)["loss"] - output.contrastive_loss / count) < 1e-4


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_our_model_there_has_the_same_features_and_loss(tmp_path, norm):
    model = run_of(tmp_path / "run", norm)
    report = export(tmp_path / "run", "transformers", tmp_path / "out")
    assert report["format"] == "Wav2Vec2ForPreTraining"
    assert report["max_difference"] < 2e-5
    assert set(report["differences"]) == {"loss", "perplexity", "frames", "mean"}
    assert ("one by one" in report["note"]) == (norm == "group")
    scope: dict = {}
    exec("\n".join(report["load"]), scope)  # the lines that the user is given
    assert_same(model, scope["model"].eval())
    settings = scope["model"].config
    assert (settings.hidden_dropout, settings.attention_dropout, settings.feat_proj_dropout) == (0.1, 0.2, 0.15)
    assert settings.mask_time_prob == pytest.approx(0.65, abs=0.005)
    assert scope["prepare"].return_attention_mask == (norm == "layer")


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_their_model_here_has_the_same_features_and_loss(tmp_path, norm):
    theirs = theirs_in(tmp_path / "theirs", norm=norm)
    adapted = adapt_audio_config(config(negatives=7, mask_fraction=0.4), tmp_path / "theirs")
    assert (adapted.negatives, adapted.mask_fraction) == (7, 0.4)  # what flags decide
    assert (adapted.encoder.trunk.depth, adapted.encoder.front_end.norm) == (2, norm)
    ours = Wav2Vec2(adapted).eval()
    said = load_initial_audio_weights(ours, tmp_path / "theirs")
    assert said == f"init {tmp_path / 'theirs'} (transformers wav2vec 2.0): encoder 2 x 32, quantizer"
    assert_same(ours, theirs)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_round_trip_of_ours_is_identical_to_the_last_bit(tmp_path, norm):
    model = run_of(tmp_path / "run", norm, seed=5)
    export(tmp_path / "run", "transformers", tmp_path / "out")
    adapted = adapt_audio_config(model.config, tmp_path / "out")
    assert adapted == model.config
    back = Wav2Vec2(adapted)
    load_initial_audio_weights(back, tmp_path / "out")
    assert same_weights(back, model)


def test_round_trip_of_theirs_is_identical_to_the_last_bit(tmp_path):
    theirs = theirs_in(tmp_path / "theirs")
    ours = Wav2Vec2(adapt_audio_config(config(), tmp_path / "theirs"))
    load_initial_audio_weights(ours, tmp_path / "theirs")
    ours.save(tmp_path / "run/model")
    export(tmp_path / "run", "transformers", tmp_path / "out")
    assert same_weights(theirs, transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["Wav2Vec2Model", "Wav2Vec2ForCTC"])
def test_encoder_alone_where_there_is_no_quantizer(tmp_path, kind):
    theirs = theirs_in(tmp_path / "theirs", kind)
    ours = Wav2Vec2(adapt_audio_config(config(), tmp_path / "theirs")).eval()
    before = ours.quantizer.codebook.clone()
    said = load_initial_audio_weights(ours, tmp_path / "theirs")
    assert said.endswith("new: the rest (there is none)")
    assert torch.equal(ours.quantizer.codebook, before)
    batch = probe_batch(ours, (30,))
    audio = batch["audio"]
    audio = (audio - audio.mean()) / (audio.var(unbiased=False) + 1e-7).sqrt()
    encoder = theirs if kind == "Wav2Vec2Model" else theirs.wav2vec2
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_frames(batch)[0], encoder(audio).last_hidden_state, rtol=0, atol=1e-4)


def test_preprocessors_and_old_names_of_weight_norm_are_read(tmp_path):
    from safetensors.torch import load_file, save_file

    theirs = theirs_in(tmp_path / "theirs")
    file = tmp_path / "theirs/model.safetensors"
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(renamed, file, metadata={"format": "pt"})
    (tmp_path / "theirs/preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 8000}')
    adapted = adapt_audio_config(config(), tmp_path / "theirs")
    assert adapted.encoder.sample_rate == 8000
    assert not adapted.encoder.front_end.normalize
    ours = Wav2Vec2(adapted).eval()
    load_initial_audio_weights(ours, tmp_path / "theirs")
    assert_same(ours, theirs)


def test_runs_of_ours_start_each_other(tmp_path):
    model = run_of(tmp_path / "run", seed=3, encoder=MEL)
    model.updates.fill_(7)
    model.save(tmp_path / "run/model")
    back = Wav2Vec2(adapt_audio_config(config(), tmp_path / "run"))
    assert load_initial_audio_weights(back, tmp_path / "run").endswith("quantizer")
    assert float(back.updates) == 0
    back.updates.fill_(7)
    assert same_weights(back, model)
    start = BestRQConfig(MEL, codebooks=2, codebook_size=8)
    other = BestRQ(adapt_audio_config(start, tmp_path / "run"))
    assert load_initial_audio_weights(other, tmp_path / "run").endswith("new: the rest")
    assert same_weights(other.encoder, model.encoder)
    other.save(tmp_path / "codes/model")
    again = BestRQ(adapt_audio_config(replace(start, codebooks=5), tmp_path / "codes"))
    assert load_initial_audio_weights(again, tmp_path / "codes").endswith("codebooks")
    assert same_weights(again, other)


def test_base_and_large_are_those_of_transformers():
    """Names and shapes of every tensor."""
    for name, changes in (
        ("base", {}),
        ("large", {
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True, "codevector_dim": 768,
            "proj_codevector_dim": 768,
        }),
    ):  # fmt: skip
        with torch.device("meta"):
            ours = wav2vec2_to(Wav2Vec2(PRESETS[name]()).state_dict())
            theirs = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**changes)).state_dict()
        assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_act": "relu"}, "activation 'relu': only exact gelu"),
        ({"feat_extract_activation": "relu"}, "activation 'relu': only exact gelu"),
        ({"model_type": "hubert"}, "is a transformers 'hubert' model: --init of audio reads 'wav2vec2'"),
        ({"conv_dim": [16, 16, 16, 16, 16, 16, 8]}, "only equal ones can be represented"),
        ({"add_adapter": True}, "has adapters"),
        ({"num_hidden_layers": 4}, "do not belong together"),
    ],
)
def test_models_that_do_not_fit_are_named(tmp_path, changes, sentence):
    theirs_in(tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=sentence):
        load_initial_audio_weights(Wav2Vec2(adapt_audio_config(config(), tmp_path / "theirs")), tmp_path / "theirs")


def test_what_does_not_fit_is_refused_with_the_remedy(tmp_path):
    theirs_in(tmp_path / "theirs")
    adapted = adapt_audio_config(config(), tmp_path / "theirs")
    deeper = replace(adapted, encoder=replace(adapted.encoder, trunk=replace(adapted.encoder.trunk, depth=5)))
    with pytest.raises(UserError, match="has an encoder of depth 2, this model 5: set it to 2"):
        load_initial_audio_weights(Wav2Vec2(deeper), tmp_path / "theirs")
    slower = replace(adapted, encoder=replace(adapted.encoder, front_end=WaveformConfig(dim=8)))
    with pytest.raises(UserError, match="has a front_end of"):
        load_initial_audio_weights(Wav2Vec2(slower), tmp_path / "theirs")
    with pytest.raises(UserError, match="has a projection_dim of 20, this model of 12: set it to 20"):
        load_initial_audio_weights(Wav2Vec2(replace(adapted, projection_dim=12)), tmp_path / "theirs")
    with pytest.raises(UserError, match="mel front end"):
        adapt_audio_config(BestRQConfig(MEL), tmp_path / "theirs")
    (tmp_path / "theirs/config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        adapt_audio_config(config(), tmp_path / "theirs")


def test_export_refuses_before_it_writes(tmp_path):
    run_of(tmp_path / "run")
    with pytest.raises(UserError, match="is a model of recordings, and timm has none"):
        export(tmp_path / "run", "timm", tmp_path / "out")
    run_of(tmp_path / "mel", encoder=MEL)
    with pytest.raises(UserError, match="hears spectrograms"):
        export(tmp_path / "mel", "transformers", tmp_path / "out")
    BestRQ(BestRQConfig(MEL, codebook_size=8)).save(tmp_path / "codes/model")
    with pytest.raises(UserError, match="is a best_rq: export takes runs of"):
        export(tmp_path / "codes", "transformers", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes", "mel", "run"]


def test_a_difference_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    run_of(tmp_path / "run")

    def spoiled(weights):
        changed = wav2vec2_to(weights)
        changed["wav2vec2.feature_projection.projection.bias"] += 0.1
        return changed

    monkeypatch.setattr("mmssl.interchange.wav2vec2.write.wav2vec2_to", spoiled)
    with pytest.raises(UserError, match="was not written"):
        export(tmp_path / "run", "transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_saved_run_loads(tmp_path):
    model = run_of(tmp_path / "run")
    again = load_predictor(tmp_path / "run")
    assert again.config == model.config
    assert same_weights(again, model)
