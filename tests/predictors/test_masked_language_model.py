"""The masked language model: same maths as transformers' BERT, masks by the law, references that mean something."""

import math

import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn import TransformerConfig
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig

VOCABULARY, SPECIAL = 40, (0, 1, 2, 3, 4)


def make(**changes) -> MaskedLanguageModel:
    torch.manual_seed(0)
    encoder = TransformerConfig(dim=16, depth=2, heads=4, mlp_dim=24, norm="post", norm_epsilon=1e-12)
    settings = {
        "vocabulary_size": VOCABULARY,
        "encoder": encoder,
        "special_ids": SPECIAL,
        "mask_id": 4,
        "max_length": 24,
    }
    model = MaskedLanguageModel(MaskedLanguageModelConfig(**settings | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch_of(lengths: list[int], seed: int = 0, longest: int | None = None) -> dict[str, Tensor]:
    """[CLS] words [SEP]; words of one to three tokens."""
    generator = torch.Generator().manual_seed(seed)
    longest = longest or max(lengths)
    token = torch.zeros(len(lengths), longest, dtype=torch.int64)
    word = torch.full_like(token, -1)
    for row, length in enumerate(lengths):
        token[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        token[row, 0], token[row, length - 1] = 2, 3
        starts = torch.rand(length - 2, generator=generator) < 0.6
        word[row, 1 : length - 1] = starts.long().cumsum(0) - starts[:1].long()
    return {"id": torch.arange(len(lengths)), "epoch": torch.zeros(len(lengths), dtype=torch.int64), "token": token,
            "word": word, "length": torch.tensor(lengths)}  # fmt: skip


LENGTHS = [20, 20, 17, 9, 5, 4]


def test_loss_and_gradients_equal_those_of_a_padded_bert():
    transformers = pytest.importorskip("transformers")
    from mmssl_bert import copy_to_bert

    model, batch = make(mask_fraction=0.3), batch_of(LENGTHS)
    bert = copy_to_bert(model, transformers).train()
    outcome = model(batch)
    outcome["loss"].backward()

    view = model.perturb(batch)
    labels = torch.where(view["hidden"], batch["token"], -100)
    other = bert(input_ids=view["shown"], attention_mask=model.valid(batch).long(), labels=labels)
    other.loss.backward()
    torch.testing.assert_close(outcome["loss"], other.loss, rtol=1e-5, atol=1e-5)
    pairs = {
        "word_embedding.weight": bert.bert.embeddings.word_embeddings.weight,
        "position_embedding.weight": bert.bert.embeddings.position_embeddings.weight,
        "head_dense.weight": bert.cls.predictions.transform.dense.weight,
        "encoder.blocks.0.mlp.fc1.weight": bert.bert.encoder.layer[0].intermediate.dense.weight,
    }
    for name, theirs in pairs.items():
        torch.testing.assert_close(model.get_parameter(name).grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_logits_equal_those_of_bert():
    transformers = pytest.importorskip("transformers")
    from mmssl_bert import copy_to_bert

    model, batch = make().eval(), batch_of(LENGTHS)
    bert = copy_to_bert(model, transformers).eval()
    valid = model.valid(batch)
    with torch.no_grad():
        expected = bert(input_ids=batch["token"], attention_mask=valid.long()).logits
        ours = model.logits(batch["token"], batch["length"])
    torch.testing.assert_close(ours[valid], expected[valid], rtol=1e-4, atol=1e-4)
    assert (ours[~valid] == 0).all()


def test_the_loss_of_a_batch_is_that_of_its_sequences_one_by_one():
    model, batch = make().eval(), batch_of(LENGTHS)
    whole = model(batch)
    total = count = 0.0
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone |= {name: alone[name][:, :length] for name in ("token", "word")}
        outcome = model(alone)
        if outcome["count"] > 0:
            total += float((outcome["loss"] * outcome["count"]).detach())
            count += float(outcome["count"])
    assert float(whole["count"]) == count
    assert whole["loss"].item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_special_tokens_and_padding_are_never_hidden_and_words_never_in_part(unit):
    model = make(unit=unit, mask_fraction=0.4)
    for epoch in range(30):
        batch = batch_of(LENGTHS, longest=23) | {"epoch": torch.full((len(LENGTHS),), epoch)}
        view = model.perturb(batch)
        hidden, word = view["hidden"], batch["word"]
        assert not hidden[word < 0].any()
        assert (view["shown"][~hidden] == batch["token"][~hidden]).all()
        assert not torch.isin(view["shown"][hidden], torch.tensor([0, 1, 2, 3])).any()
        if unit != "token":
            for row in range(len(LENGTHS)):
                for number in range(int(word[row].max()) + 1):
                    mine = word[row] == number
                    assert hidden[row, mine].all() or not hidden[row, mine].any()
                    # one die a unit: a word is masked as a whole or not at all
                    masked = view["shown"][row, mine] == 4
                    assert masked.all() or not masked.any()


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_the_share_hidden_and_the_80_10_10_are_those_asked_for(unit):
    model = make(unit=unit, mask_fraction=0.3, vocabulary_size=1000, max_length=128)
    many = 400
    word = (torch.arange(100).expand(many, -1)).clone()
    batch = {"id": torch.arange(many), "epoch": torch.zeros(many, dtype=torch.int64), "word": word,
             "token": torch.full((many, 100), 7), "length": torch.full((many,), 100)}  # fmt: skip
    view = model.perturb(batch)
    hidden, shown = view["hidden"], view["shown"]
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.005)
    shown = shown[hidden]
    masked, kept = float((shown == 4).float().mean()), float((shown == 7).float().mean())
    # 12,000 hidden tokens; spans share a die, so that about 3,100 dice are thrown: three standard errors
    assert masked == pytest.approx(0.8, abs=0.022)
    assert kept == pytest.approx(0.1, abs=0.017)
    random = shown[(shown != 4) & (shown != 7)]
    assert random.min() >= 5
    assert len(random.unique()) > 300


def test_evaluation_hides_15_percent_as_mask_whatever_the_training_hides():
    batch = batch_of([24] * 50, longest=24)
    views = [make(mask_fraction=f, unit=u, replacement=r).eval().perturb(batch)
             for f, u, r in [(0.3, "token", (0.8, 0.1, 0.1)), (0.6, "span", (0.0, 1.0, 0.0))]]  # fmt: skip
    assert torch.equal(views[0]["hidden"], views[1]["hidden"])
    assert torch.equal(views[0]["shown"], views[1]["shown"])
    assert (views[0]["shown"][views[0]["hidden"]] == 4).all()
    assert views[0]["hidden"].sum(1).unique().tolist() == [4]  # 22 eligible; 22 - int(22 * 0.85) = 4


def test_reference_is_the_cross_entropy_of_token_frequencies():
    model, batch = make().eval(), batch_of(LENGTHS)
    counts = torch.arange(VOCABULARY).float()
    model.observe(counts)
    view = model.perturb(batch)
    targets = batch["token"][view["hidden"]]
    share = (counts.double() + 1) / (counts.double() + 1).sum()
    outcome = model(batch)
    assert float(outcome["reference"]) == pytest.approx(float(-share[targets].log().mean()), rel=1e-5)
    share = (outcome["loss"] / outcome["reference"]).item()
    assert outcome["skill"].item() == pytest.approx(1 - share, rel=1e-5)


def test_neighbours_guess_by_counted_pairs():
    model = make(bigrams=3).eval()
    counts = torch.zeros(VOCABULARY)
    counts[[10, 11, 12]] = torch.tensor([50.0, 30.0, 20.0])
    pairs = (torch.tensor([10, 10, 12]), torch.tensor([11, 12, 11]), torch.tensor([6, 2, 4]))
    model.observe(counts, pairs)
    frequency = model.unigram.exp()
    left = (6 + 2 * frequency[11]) / (8 + 2)  # behind 10: 11 six times, 12 twice
    right = (4 + 2 * frequency[12]) / 10 * 0 + frequency[11]  # nothing was seen before 30
    shown = torch.tensor([2, 10, 4, 30, 3])
    guess = model.neighbours(model.unigram, shown, torch.tensor([11]), torch.tensor([2]), 4)
    assert float(guess.exp()) == pytest.approx(float((left + right) / 2), rel=1e-5)
    # a hidden neighbour says nothing: only the left one counts
    shown = torch.tensor([2, 10, 4, 4, 3])
    guess = model.neighbours(model.unigram, shown, torch.tensor([11]), torch.tensor([2]), 4)
    assert float(guess.exp()) == pytest.approx(float(left), rel=1e-5)


def test_the_guess_from_neighbours_is_a_distribution():
    model = make(bigrams=4).eval()
    model.observe(
        torch.rand(VOCABULARY) * 100,
        (torch.tensor([5, 5, 6, 9]), torch.tensor([6, 7, 9, 9]), torch.tensor([3, 1, 2, 8])),
    )
    shown = torch.tensor([2, 5, 4, 9, 3])
    every = torch.arange(VOCABULARY)
    guess = model.neighbours(model.unigram, shown, every, torch.full_like(every, 2), 4)
    assert float(guess.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_features_of_a_text_do_not_depend_on_its_neighbours():
    model, batch = make().eval(), batch_of(LENGTHS)
    whole = model.encode_clean(batch)
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone |= {name: alone[name][:, :length] for name in ("token", "word")}
        for name, values in model.encode_clean(alone).items():
            torch.testing.assert_close(values[0], whole[name][row], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(whole["mean"], whole["cls"])
    layers = model.encode_layers(batch)
    assert len(layers) == 1 + model.config.encoder.depth
    for name in whole:
        torch.testing.assert_close(layers[name], whole[name])
    assert not torch.allclose(layers["layer 1"], whole["mean"])


def test_reveal_shows_guesses_at_hidden_places_only():
    model, batch = make(), batch_of([24, 20])
    panels = model.reveal(batch)
    assert model.training
    assert (panels["probability"].sum(-1)[~panels["hidden"]] == 0).all()
    at = panels["probability"][panels["hidden"]]
    assert (at > 0).all()
    assert (at[:, :-1] >= at[:, 1:]).all()
    assert torch.equal(panels["composite"][~panels["hidden"]], batch["token"][~panels["hidden"]])


def test_it_loads_as_it_was_saved(tmp_path):
    model, batch = make(bigrams=2).eval(), batch_of(LENGTHS)
    model.observe(torch.rand(VOCABULARY), (torch.tensor([5, 6]), torch.tensor([6, 7]), torch.tensor([3, 1])))
    model.save(tmp_path)
    again = load_predictor(tmp_path)
    assert {name: float(v) for name, v in again(batch).items()} == {name: float(v) for name, v in model(batch).items()}


def test_it_learns_a_language_that_repeats():
    """Sequences of one repeated word each: the visible ones say what the hidden one is, frequencies do not."""
    torch.manual_seed(0)
    model = MaskedLanguageModel(make(mask_fraction=0.3).config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(300):
        words = torch.randint(5, VOCABULARY, (32, 1), generator=torch.Generator().manual_seed(step))
        token = torch.cat([torch.full((32, 1), 2), words.expand(-1, 8), torch.full((32, 1), 3)], 1)
        word = torch.arange(-1, 9).expand(32, -1).clone()
        word[:, -1] = -1
        batch = {"id": torch.arange(32) + 32 * step, "epoch": torch.zeros(32, dtype=torch.int64), "token": token,
                 "word": word, "length": torch.full((32,), 10)}  # fmt: skip
        model(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    outcome = model.eval()(batch)
    assert float(outcome["reference"]) == pytest.approx(math.log(VOCABULARY), rel=1e-4)
    assert float(outcome["skill"]) > 0.9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replacement": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"replacement": (1.2, -0.1, -0.1)}, "sum to 1"),
        ({"mask_id": 9}, "mask_id"),
        ({"special_ids": (0, 1, 2, 3, 4, 99)}, "below 40"),
        ({"max_length": 3}, "max_length"),
        ({"mask_fraction": 1.0}, "mask_fraction"),
        ({"special_ids": tuple(range(VOCABULARY))}, "no words"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


@pytest.mark.gpu
def test_the_gpu_hides_the_same_and_gets_the_same_loss():
    model, batch = make(), batch_of(LENGTHS)
    here = model(batch)
    flat = model.valid(batch).flatten().nonzero()[:, 0]
    there = {name: value.cuda() for name, value in batch.items()} | {"flat": flat.cuda()}
    view = model.perturb(batch)
    model.cuda()
    assert torch.equal(model.perturb(there)["hidden"].cpu(), view["hidden"])
    for name, value in model(there).items():
        assert float(value) == pytest.approx(float(here[name]), rel=1e-4)
