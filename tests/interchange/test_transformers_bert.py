"""Parity with transformers' BERT, in both directions, on random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interchange_tiny import randomise, same_weights
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.data.text.tokenizer import TextTokenizer
from mmssl.errors import UserError
from mmssl.interchange import adapt_text_config, export, initial_tokenizer, load_initial_text_weights
from mmssl.interchange.bert.names import bert_to
from mmssl.interchange.bert.parity import labels_of, probe_batch
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,'"]
WORDS = (*SPECIAL, *LETTERS, *("##" + letter for letter in LETTERS), "the", "quick", "fox", "##ing", "##s")
ENCODER = TransformerConfig(
    dim=64, depth=3, heads=2, mlp_dim=96, norm="post", norm_epsilon=1e-12, dropout=0.1, attention_dropout=0.2
)


def tokenizer() -> TextTokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(list(SPECIAL))
    return TextTokenizer(made, dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True)))


def config(**changes: Any) -> MaskedLanguageModelConfig:
    settings = {"vocabulary_size": len(WORDS), "encoder": ENCODER, "special_ids": (0, 1, 2, 3, 4), "mask_id": 4,
                "max_length": 24}  # fmt: skip
    return MaskedLanguageModelConfig(**settings | changes)


def run_of(folder: Path, seed: int = 0, **changes: Any) -> MaskedLanguageModel:
    """A run with random weights and its tokenizer."""
    model = MaskedLanguageModel(config(**changes)).eval()
    randomise(model, seed)
    model.observe(torch.arange(len(WORDS)).float())
    model.save(folder / "model")
    tokenizer().save(folder / "model")
    return model


def theirs_in(folder: Path, kind: str = "BertForMaskedLM", seed: int = 3, **changes: Any):
    """A BERT of transformers with random weights, saved with the tokenizer."""
    settings = {"vocab_size": len(WORDS), "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                "intermediate_size": 96, "max_position_embeddings": 24}  # fmt: skip
    model = getattr(transformers, kind)(transformers.BertConfig(**settings | changes)).eval()
    randomise(model, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("LayerNorm.weight"):  # near 0, every token would become the same
                weight += 1
    model.save_pretrained(folder)
    tokenizer().save(folder)
    return model


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    real = torch.arange(batch["token"].shape[1]) < batch["length"][:, None]
    return {"input_ids": batch["token"], "attention_mask": real.long()}


def loss_and_logits(model: MaskedLanguageModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    labels, logits = labels_of(batch), model.logits(batch["token"], batch["length"])
    return F.cross_entropy(logits[labels >= 0], labels[labels >= 0]), logits


def assert_same(ours: MaskedLanguageModel, theirs: Any) -> None:
    """Logits to 1e-4 at every real token, loss of the same labels to 1e-5."""
    batch = probe_batch(ours.config, tokenizer())
    with torch.no_grad():
        output = theirs(**inputs_of(batch), labels=labels_of(batch))
        loss, logits = loss_and_logits(ours, batch)
    real = inputs_of(batch)["attention_mask"].bool()
    assert logits[real].std(0).mean() > 0.2  # tokens differ
    torch.testing.assert_close(logits[real], output.logits[real], rtol=0, atol=1e-4)
    assert abs(loss - output.loss).item() < 1e-5


def test_our_model_there_has_the_same_logits_and_loss(tmp_path):
    model = run_of(tmp_path / "run")
    report = export(tmp_path / "run", "transformers", tmp_path / "out")
    assert report["format"] == "BertForMaskedLM"
    assert report["max_difference"] < 1e-5
    assert set(report["differences"]) == {"logits", "loss", "mean", "cls", "tokenizer"}
    assert json.loads((tmp_path / "out/parity.json").read_text()) == report
    scope: dict = {}
    exec("\n".join(report["load"]), scope)  # the lines that the user is given
    assert_same(model, scope["model"].eval())
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")).__name__ == "BertForMaskedLM"
    settings = scope["model"].config
    assert (settings.hidden_dropout_prob, settings.attention_probs_dropout_prob) == (0.1, 0.2)


def test_our_gradients_there_are_the_same(tmp_path):
    """The tied table of words gets its two gradients too."""
    quiet = replace(ENCODER, dropout=0.0, attention_dropout=0.0)
    model = run_of(tmp_path / "run", encoder=quiet)
    export(tmp_path / "run", "transformers", tmp_path / "out")
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "out")
    batch = probe_batch(model.config, tokenizer())
    theirs(**inputs_of(batch), labels=labels_of(batch)).loss.backward()
    loss_and_logits(model, batch)[0].backward()
    own = {name: value.grad for name, value in model.named_parameters()}
    other = {name: value.grad for name, value in theirs.named_parameters()}
    for name, gradient in bert_to(own).items():
        if "embeddings" in name:  # padding there, and the second segment, have none here
            gradient, other[name] = gradient[1:], other[name][1:]
        torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=1e-5)


def test_tokenizers_are_equal_there(tmp_path):
    run_of(tmp_path / "run")
    export(tmp_path / "run", "transformers", tmp_path / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = ["The quick FOX's foxing.", "x y 12", ""]
    ours = [[2, *text.ids.tolist(), 3] for text in tokenizer().encode(texts)]
    assert loaded(texts)["input_ids"] == ours
    assert loaded.mask_token_id == 4
    assert loaded.pad_token_id == 0
    assert initial_tokenizer(tmp_path / "out").digest == tokenizer().digest
    assert initial_tokenizer(tmp_path / "run").digest == tokenizer().digest


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5])
def test_their_model_here_has_the_same_logits_and_loss(tmp_path, epsilon):
    theirs = theirs_in(tmp_path / "bert", layer_norm_eps=epsilon, attention_probs_dropout_prob=0.3)
    # the recipe's own idea of a model before it looks at what is there
    start = config(encoder=TransformerConfig(dim=8, depth=1, heads=1, mlp_dim=8), vocabulary_size=9, max_length=12)
    adapted = adapt_text_config(start, tmp_path / "bert")
    assert adapted.vocabulary_size == len(WORDS)
    assert (adapted.max_length, adapted.special_ids, adapted.mask_id) == (24, (0, 1, 2, 3, 4), 4)
    assert (adapted.encoder.norm, adapted.encoder.norm_epsilon) == ("post", epsilon)
    assert (adapted.encoder.dropout, adapted.encoder.attention_dropout) == (0.1, 0.3)
    ours = MaskedLanguageModel(adapted).eval()
    said = load_initial_text_weights(ours, tmp_path / "bert")
    assert said == f"init {tmp_path / 'bert'} (transformers BERT): {len(WORDS)} words, encoder 3 x 64, head"
    assert_same(ours, theirs)


def test_round_trip_of_ours_is_identical_to_the_last_bit(tmp_path):
    model = run_of(tmp_path / "run", seed=5)
    export(tmp_path / "run", "transformers", tmp_path / "out")
    back = MaskedLanguageModel(adapt_text_config(model.config, tmp_path / "out"))
    assert back.config == model.config
    load_initial_text_weights(back, tmp_path / "out")
    back.unigram.copy_(model.unigram)  # how often each token occurs belongs to the data
    assert same_weights(back, model)


def test_round_trip_of_theirs_is_identical_to_the_last_bit(tmp_path):
    theirs = theirs_in(tmp_path / "bert")
    ours = MaskedLanguageModel(adapt_text_config(config(), tmp_path / "bert"))
    load_initial_text_weights(ours, tmp_path / "bert")
    ours.save(tmp_path / "run/model")
    initial_tokenizer(tmp_path / "bert").save(tmp_path / "run/model")
    export(tmp_path / "run", "transformers", tmp_path / "out")
    assert same_weights(theirs, transformers.BertForMaskedLM.from_pretrained(tmp_path / "out"))


def test_our_own_run_is_taken_over_with_its_head_and_without_its_statistics(tmp_path):
    model = run_of(tmp_path / "run", seed=2, encoder=replace(ENCODER, norm="pre"), bigrams=0)
    back = MaskedLanguageModel(adapt_text_config(config(), tmp_path / "run"))
    before = back.unigram.clone()
    assert load_initial_text_weights(back, tmp_path / "run").endswith("head")
    assert torch.equal(back.unigram, before)
    back.unigram.copy_(model.unigram)
    assert same_weights(back, model)


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("BertModel", {}, "there is none"),
        ("BertForSequenceClassification", {}, "there is none"),
        ("BertForMaskedLM", {"tie_word_embeddings": False}, "its output layer is not its table of words"),
    ],
)
def test_encoder_alone_where_there_is_no_head_like_ours(tmp_path, kind, changes, why):
    theirs = theirs_in(tmp_path / "bert", kind, **changes)
    ours = MaskedLanguageModel(adapt_text_config(config(), tmp_path / "bert")).eval()
    before = ours.head_dense.weight.clone()
    said = load_initial_text_weights(ours, tmp_path / "bert")
    assert said.endswith(f"encoder 3 x 64; new: the head ({why})")
    assert torch.equal(ours.head_dense.weight, before)
    batch = probe_batch(ours.config, tokenizer())
    encoder = theirs if kind == "BertModel" else theirs.bert
    with torch.no_grad():
        tokens = encoder(**inputs_of(batch)).last_hidden_state
        features = ours.encode_clean(batch)
    torch.testing.assert_close(features["cls"], tokens[:, 0], rtol=0, atol=1e-5)


def test_untied_layer_that_equals_the_table_is_a_head_like_ours(tmp_path):
    theirs = theirs_in(tmp_path / "bert", tie_word_embeddings=False)
    with torch.no_grad():
        theirs.cls.predictions.decoder.weight.copy_(theirs.bert.embeddings.word_embeddings.weight)
    theirs.save_pretrained(tmp_path / "bert")
    ours = MaskedLanguageModel(adapt_text_config(config(), tmp_path / "bert")).eval()
    assert load_initial_text_weights(ours, tmp_path / "bert").endswith("head")
    assert_same(ours, theirs)


def test_next_sentence_head_one_segment_and_old_names_are_read(tmp_path):
    from safetensors.torch import load_file, save_file

    theirs = theirs_in(tmp_path / "bert", "BertForPreTraining", type_vocab_size=1)
    file = tmp_path / "bert/model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(file)
    for new, before in old.items():
        weights = {name.replace(new, before): tensor for name, tensor in weights.items()}
    save_file(weights, file, metadata={"format": "pt"})
    ours = MaskedLanguageModel(adapt_text_config(config(), tmp_path / "bert")).eval()
    assert ours.segment_embedding.weight.shape == (1, 64)
    assert load_initial_text_weights(ours, tmp_path / "bert").endswith("head")
    batch = probe_batch(ours.config, tokenizer())
    with torch.no_grad():
        output = theirs(**inputs_of(batch)).prediction_logits
        logits = ours.logits(batch["token"], batch["length"])
    real = inputs_of(batch)["attention_mask"].bool()
    torch.testing.assert_close(logits[real], output[real], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_act": "relu"}, "activation 'relu': only exact gelu"),
        ({"position_embedding_type": "relative_key"}, "positions of the kind 'relative_key': only absolute ones"),
        ({"is_decoder": True}, "is a decoder"),
        ({"model_type": "roberta"}, "is a transformers 'roberta' model: --init of texts reads 'bert'"),
    ],
)
def test_models_that_our_trunk_cannot_represent_are_named(tmp_path, changes, sentence):
    theirs_in(tmp_path / "bert")
    file = tmp_path / "bert/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=sentence):
        adapt_text_config(config(), tmp_path / "bert")


def test_what_does_not_fit_is_refused_with_the_remedy(tmp_path):
    theirs_in(tmp_path / "bert")
    with pytest.raises(UserError, match="has 24 positions, asked for are pieces of 25 tokens: set max_length to at"):
        adapt_text_config(config(max_length=25), tmp_path / "bert")
    with pytest.raises(UserError, match="has a max_length of 24, this model of 12: set it to 24"):
        load_initial_text_weights(MaskedLanguageModel(config(max_length=12)), tmp_path / "bert")
    with pytest.raises(UserError, match="has an encoder of depth 3, this model 1: set it to 3"):
        load_initial_text_weights(MaskedLanguageModel(config(encoder=replace(ENCODER, depth=1))), tmp_path / "bert")
    with pytest.raises(UserError, match="vocabulary_size"):
        load_initial_text_weights(MaskedLanguageModel(config(vocabulary_size=99)), tmp_path / "bert")
    file = tmp_path / "bert/config.json"
    text = file.read_text()
    file.write_text(text.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(UserError, match=r"do not belong together \(first difference: encoder\.blocks\.3"):
        load_initial_text_weights(
            MaskedLanguageModel(adapt_text_config(config(), tmp_path / "bert")), tmp_path / "bert"
        )
    file.write_text(text.replace(f'"vocab_size": {len(WORDS)}', '"vocab_size": 9'))
    with pytest.raises(UserError, match=f"has a tokenizer of {len(WORDS)} tokens and a model of 9"):
        adapt_text_config(config(), tmp_path / "bert")
    file.unlink()
    with pytest.raises(UserError, match=r"has no config\.json beside its weights"):
        adapt_text_config(config(), tmp_path / "bert")


def test_pickles_and_pictures_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match=r"a pickle.*BertForMaskedLM\.from_pretrained\(NAME\)\.save_pretrained"):
        adapt_text_config(config(), tmp_path)
    run_of(tmp_path / "run")
    settings = tmp_path / "run/model/config.json"
    settings.write_text(settings.read_text().replace("masked_language_model", "masked_autoencoder"))
    with pytest.raises(UserError, match="is a masked_autoencoder, not an encoder of texts"):
        adapt_text_config(config(), tmp_path / "run")


def test_export_refuses_before_it_writes(tmp_path):
    run_of(tmp_path / "run")
    with pytest.raises(UserError, match="is a language model, and timm has none: export it with --to transformers"):
        export(tmp_path / "run", "timm", tmp_path / "out")
    run_of(tmp_path / "pre", encoder=replace(ENCODER, norm="pre"))
    with pytest.raises(UserError, match="has norms before its blocks, BERT after"):
        export(tmp_path / "pre", "transformers", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pre", "run"]


def test_a_difference_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    run_of(tmp_path / "run")

    def spoiled(weights):
        changed = bert_to(weights)
        changed["cls.predictions.bias"] += 2e-4
        return changed

    monkeypatch.setattr("mmssl.interchange.bert.write.bert_to", spoiled)
    with pytest.raises(
        UserError, match=r"the BertForMaskedLM made from .* differs from it by .*, so .* was not written"
    ):
        export(tmp_path / "run", "transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
