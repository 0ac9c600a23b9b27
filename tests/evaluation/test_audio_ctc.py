"""The CTC head: its arithmetic against plain loops, and that it learns what frames say."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from mmssl.evaluation.ctc import (
    CtcConfig,
    Frozen,
    _unit,
    edit_distance,
    error_rate,
    fit_head,
    greedy,
    tokenise,
    too_short,
)
from mmssl.evaluation.ctc_report import CtcReport, print_ctc_report


def levenshtein(said: str, truth: str) -> int:
    table = [[i + j if i * j == 0 else 0 for j in range(len(truth) + 1)] for i in range(len(said) + 1)]
    for i in range(1, len(said) + 1):
        for j in range(1, len(truth) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1,
                              table[i - 1][j - 1] + (said[i - 1] != truth[j - 1]))  # fmt: skip
    return table[-1][-1]


def test_edit_distance_is_levenshteins():
    random = np.random.default_rng(0)
    for _ in range(300):
        said, truth = ("".join(random.choice(list("abc"), random.integers(7))) for _ in range(2))
        assert edit_distance(said, truth) == levenshtein(said, truth), (said, truth)
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance(["three", "five"], ["three"]) == 1


def test_greedy_merges_repetitions_and_drops_blanks():
    assert greedy(torch.tensor([0, 2, 2, 0, 2, 1, 1, 0])) == [2, 2, 1]
    assert greedy(torch.tensor([0, 0])) == []


def test_tokens_are_words_or_characters():
    assert tokenise("Bin  blue\tat", "words") == ["bin", "blue", "at"]
    assert "".join(tokenise(" Bin  blue ", "characters")) == "bin blue"
    assert _unit(["one two", "two"], "auto") == "words"
    assert _unit([f"word{number}" for number in range(101)], "auto") == "characters"
    assert _unit(["one"], "characters") == "characters"


def spoken(count: int, seed: int) -> tuple[Frozen, list[str]]:
    """Two layers of frames; the second one says the words, five frames each, in noise."""
    generator = torch.Generator().manual_seed(seed)
    words = ["red", "green", "blue"]
    frames, texts = [], []
    for _ in range(count):
        said = torch.randint(3, (int(torch.randint(1, 5, (), generator=generator)),), generator=generator)
        signal = torch.nn.functional.one_hot(said.repeat_interleave(5), 8).float()
        signal = signal + 0.2 * torch.randn(signal.shape, generator=generator)
        signal[::5, 7] += 2  # a word begins
        frames.append(torch.stack([torch.randn(signal.shape, generator=generator), signal], 1).half())
        texts.append(" ".join(words[word] for word in said.tolist()))
    return Frozen(frames, list(range(count)), 5), texts


def test_a_head_learns_what_frames_say_and_is_repeatable():
    train, texts = spoken(80, 0)
    test, truths = spoken(40, 1)
    tokens, config = ["blue", "green", "red"], CtcConfig(steps=250)
    heads = [fit_head(train, texts, tokens, "words", torch.device("cpu"), 0, config) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*(head.state_dict().values() for head in heads), strict=True))
    assert error_rate(heads[0], test, truths, tokens, "words") < 0.1
    assert heads[0].mix.argmax() == 1
    silent = fit_head(train, texts, tokens, "words", torch.device("cpu"), 0, CtcConfig(steps=1))
    torch.nn.init.zeros_(silent.linear.weight)
    silent.linear.bias.data = torch.tensor([1.0, 0, 0, 0])
    assert error_rate(silent, test, truths, tokens, "words") == 1


def test_recordings_without_a_path_are_counted():
    frames = Frozen([torch.zeros(3, 1, 2), torch.zeros(4, 1, 2)], [0, 1], 1)
    assert too_short(frames, ["see", "see"], "characters") == 1  # two equal letters need a blank between them


@pytest.mark.parametrize("rates", [(0.25,), (0.2, 0.3)])
def test_the_report_says_what_was_counted(rates):
    written = io.StringIO()
    report = CtcReport("words", 3, 80, 40, {"pretrained": rates, "raw input": rates}, 1.0, {}, ("A note.",))
    print_ctc_report(report, Console(file=written, width=100))
    said = " ".join(written.getvalue().split())
    assert "log-mel frames 25.0" in said
    assert "A note." in said
    assert ("One seed" in said) == (len(rates) == 1)
