"""Probes on texts: the bag of words beside them, batches of different widths, and the command on a run."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmssl.data.text.tokenized import TokenizedTexts
from mmssl.data.text.tokenizer import TextTokenizer
from mmssl.data.text.training import train_tokenizer
from mmssl.evaluation.bag_of_words import BagOfWords
from mmssl.evaluation.features import LabelledSet, extract, frozen, gather, longest_first, take
from mmssl.evaluation.finetune import FinetuneConfig, accuracy_of, finetune
from mmssl.evaluation.representations import Baseline
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

pytest.importorskip("sklearn")

GOOD, BAD = ["lovely", "great", "fine", "superb"], ["awful", "poor", "dull", "bad"]
PLAIN = ["film", "story", "actor", "scene", "end", "plot"]


def reviews(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """One telling word among plain ones, in texts of 3 to 12 words."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=count)
    texts = []
    for label in labels:
        words = list(random.choice(PLAIN, random.integers(2, 12)))
        words.insert(int(random.integers(len(words))), str(random.choice((BAD, GOOD)[label])))
        texts.append(" ".join(words))
    return texts, labels


def tokenizer() -> TextTokenizer:
    return train_tokenizer([" ".join(pair) for pair in product(GOOD + BAD, PLAIN)], "wordpiece", 80)


def model(words: TextTokenizer, seed: int = 0) -> MaskedLanguageModel:
    torch.manual_seed(seed)
    encoder = TransformerConfig(dim=16, depth=1, heads=2, mlp_dim=32, norm="post", norm_epsilon=1e-12)
    config = MaskedLanguageModelConfig(
        vocabulary_size=words.vocabulary_size, encoder=encoder, special_ids=words.special_ids, mask_id=words.mask_id,
        max_length=32,
    )  # fmt: skip
    return MaskedLanguageModel(config).eval()


def labelled(count: int, seed: int, batch_tokens: int = 200) -> LabelledSet:
    texts, labels = reviews(count, seed)
    tokens = TokenizedTexts(texts, tokenizer(), max_length=32, batch_tokens=batch_tokens)
    return LabelledSet(tokens.batches, labels, ("bad", "good"), tokens.padding)


def test_features_do_not_depend_on_how_texts_are_batched():
    predictor = model(tokenizer())
    parts = [extract(frozen(predictor), labelled(60, 0, batch_tokens)) for batch_tokens in (1, 150, 9999)]
    for features, labels in parts[1:]:
        assert torch.equal(labels, parts[0][1])
        for name, values in features.items():
            torch.testing.assert_close(values, parts[0][0][name], rtol=0, atol=1e-5)


def test_gather_joins_batches_of_different_widths():
    samples, predictor = labelled(60, 0, batch_tokens=100), model(tokenizer())
    assert len({batch["token"].shape[1] for batch in samples.batches()}) > 3
    positions = torch.tensor([59, 3, 30, 3, 0])
    batch = gather(samples, positions)
    ids = torch.cat([part["id"] for part in samples.batches()])
    assert batch["id"].tolist() == ids[positions].tolist()
    assert batch["token"].shape == (5, int(batch["length"].max()))
    whole, _ = extract(frozen(predictor), samples)
    part, order = longest_first(batch)
    torch.testing.assert_close(frozen(predictor)(part)["mean"], whole["mean"][positions][order], rtol=0, atol=1e-5)


def test_longest_first_sorts_and_cuts():
    batch = gather(labelled(40, 0), torch.arange(40))
    part, order = longest_first(take(batch, torch.tensor([39, 20, 30])))
    assert order.tolist() == [1, 2, 0]
    assert part["length"].tolist() == sorted(part["length"].tolist(), reverse=True)
    assert part["token"].shape == part["word"].shape == (3, int(part["length"][0]))
    pictures = {"id": torch.arange(3), "image": torch.zeros(3, 1, 2, 2)}
    same, order = longest_first(pictures)
    assert order.tolist() == [0, 1, 2]
    assert same["image"] is pictures["image"]


def test_finetuning_learns_and_is_repeatable():
    train, test = labelled(200, 0), labelled(200, 1, batch_tokens=64)
    batch = gather(train, torch.arange(200))
    labels = train.labels(batch)
    config = FinetuneConfig(steps=80, batch_size=32, learning_rate=5e-3)
    tuned = [finetune(model(tokenizer()), batch, labels, 2, seed=0, config=config) for _ in range(2)]
    assert accuracy_of(tuned[0], test) > 0.9
    one, two = (part.state_dict() for part in tuned)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_bag_of_words_knows_only_the_texts_it_is_given():
    train = ["alpha beta", "gamma delta", "alpha omega", "gamma omega"]
    bag = BagOfWords(train, ["alpha", "gamma", "omega omega"])
    assert isinstance(bag, Baseline)
    labels = torch.tensor([0, 1, 0, 1])
    chosen = torch.tensor([0, 1])
    predicted, l2, _ = bag.linear(chosen, labels[chosen], 2, seed=0)
    assert predicted[:2].tolist() == [0, 1]
    assert l2 == 1e-2  # a label a class sets none aside to choose by
    rows, tests = bag._count([train[index] for index in chosen.tolist()])
    assert rows.matrix.shape == (2, 6)  # alpha, beta, "alpha beta" and so on; omega is unknown
    assert tests.matrix[2].nnz == 0
    assert bag.nearest(labels, 2)[:2].tolist() == [0, 1]


def test_bag_of_words_agrees_with_scikit_learn_and_beats_chance():
    linear_model = pytest.importorskip("sklearn.linear_model")
    text = pytest.importorskip("sklearn.feature_extraction.text")
    (train, labels), (test, truth) = reviews(300, 0), reviews(200, 1)
    predicted, l2, _ = BagOfWords(train, test).linear(torch.arange(300), torch.from_numpy(labels), 2, seed=0)
    counter = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    oracle = linear_model.LogisticRegression(C=1 / (300 * l2), max_iter=1000).fit(counter.fit_transform(train), labels)
    assert np.mean(oracle.predict(counter.transform(test)) == predicted.numpy()) > 0.98
    assert np.mean(predicted.numpy() == truth) > 0.95


def test_a_class_without_samples_is_never_guessed_by_words():
    train, labels = reviews(50, 0)
    predicted, *_ = BagOfWords(train, reviews(20, 1)[0]).linear(
        torch.arange(50), torch.from_numpy(labels) * 3, 5, seed=0
    )
    assert set(predicted.tolist()) <= {0, 3}
    assert F.one_hot(predicted, 5).sum() == 20


def test_missing_scikit_learn_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"needs scikit-learn: pip install 'mmssl\[text\]'"):
        BagOfWords(["a"], ["b"])


@pytest.mark.timeout(120)
def test_command_on_a_run(tmp_path: Path, capsys, monkeypatch):
    from mmssl.cli import main

    words = tokenizer()
    predictor = model(words)
    predictor.save(tmp_path / "run/model")
    words.save(tmp_path / "run/model")
    rows = [("train", *pair) for pair in zip(*reviews(120, 0), strict=True)]
    rows += [("test", *pair) for pair in zip(*reviews(80, 1), strict=True)]
    lines = ["split\ttext\tlabel", *(f"{split}\t{text}\t{label}" for split, text, label in rows), "train\t\t1"]
    (tmp_path / "mood.tsv").write_text("\n".join(lines))
    monkeypatch.setattr("mmssl.evaluation.text_runs.FINETUNING", FinetuneConfig(steps=3, batch_size=8))
    main(
        [
            "probe",
            str(tmp_path / "run"),
            "--data",
            str(tmp_path / "mood.tsv"),
            "--seeds",
            "2",
            "--finetune-labels",
            "20",
        ]
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "bag of words (TF-IDF)" in said
    assert "words and their weights come from the labelled texts of each draw alone" in said
    assert "1 of 201 rows have no text or no 'label' and are left out" in said
    data = json.loads((tmp_path / "run/probe/probe-label.json").read_text())
    assert data["finetune"]["steps"] == 3
    flags = f"--data {tmp_path / 'mood.tsv'} --seeds 2 --finetune-labels 20 --by-layer"
    assert data["command"] == f"mmssl probe {tmp_path / 'run'} {flags}"
    assert data["raw"] == "bag of words (TF-IDF)"
    found = {
        (row["representation"], row["feature"], row["method"], row["labels"]): row["mean"] for row in data["results"]
    }
    assert {key[:3] for key in found} == {
        *product(("pretrained", "random init"), ("mean", "cls"), ("linear", "knn")),
        *product(("raw input",), ("words and pairs",), ("linear", "knn")),
        *product(("pretrained", "random init"), ("mean",), ("finetune",)),
    }
    assert {key[3] for key in found} == {10, 20, 100, 120}
    assert found["raw input", "words and pairs", "linear", 120] > 0.9


def test_labels_that_are_wrong_end_in_a_sentence(tmp_path, capsys):
    from mmssl.cli import main

    words = tokenizer()
    model(words).save(tmp_path / "run/model")
    words.save(tmp_path / "run/model")
    (tmp_path / "one.tsv").write_text("label\ttext\n1\ta\n1\tb\n")
    with pytest.raises(SystemExit):
        main(["probe", str(tmp_path / "run"), "--data", str(tmp_path / "one.tsv")])
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'one.tsv'} has the single class '1'")
