"""The text recipe and the commands that read its run, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import run

from mmssl import cli
from mmssl.errors import INTERRUPTED
from mmssl.evaluation.reveal_text import Token, print_guesses, write_texts
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_language_model import PRESETS
from mmssl.training.journal import read_journal

SHORT = ["--preset", "bert_tiny", "--vocabulary-size", "120", "--max-length", "32", "--steps", "4", "--batch-size", "8",
         "--log-every", "2", "--validate-every", "4", "--device", "cpu"]  # fmt: skip
NOUNS = ["cat", "dog", "bird", "horse", "fish", "mouse", "child", "king"]
VERBS = ["sees", "hears", "likes", "finds", "follows"]


def sentence(numbers: np.random.Generator) -> str:
    one, other = numbers.choice(NOUNS, 2, replace=False)
    return f"the {one} {numbers.choice(VERBS)} the {other} under the {numbers.choice(['old', 'tall', 'green'])} tree ."


@pytest.fixture(scope="module")
def recipe():
    from scripts import ROOT, load_script

    return load_script(ROOT / "recipes" / "text_bert.py")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Forty documents of a few sentences each."""
    folder = tmp_path_factory.mktemp("texts")
    numbers = np.random.default_rng(0)
    for index in range(40):
        lines = [sentence(numbers) for _ in range(int(numbers.integers(2, 9)))]
        (folder / f"{index:02d}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path_factory.getbasetemp() / "text-cache"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipe, texts):
    out = tmp_path_factory.mktemp("runs") / "bert"
    recipe.main(["--data", str(texts), "--out", str(out), *SHORT])
    return out


def test_the_run_folder_is_complete(finished):
    for name in ("config.json", "journal.jsonl", "skipped.jsonl", "checkpoints/latest", "model/model.safetensors",
                 "model/config.json", "model/tokenizer.json", "reveal/step-00000004.txt",
                 "reveal/step-00000004.html"):  # fmt: skip
        assert (finished / name).is_file(), name
    entries = read_journal(finished / "journal.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4]
    assert all(
        {"loss", "reference", "skill", "learning_rate", "samples_per_second"} <= entry.keys() for entry in entries
    )
    assert {"val_loss", "val_skill", "val_skill_neighbours", "val_accuracy"} <= entries[-1].keys()
    assert load_predictor(finished).config.vocabulary_size <= 120


@pytest.mark.parametrize(
    "flags",
    [
        ["--unit", "word"],
        ["--unit", "span", "--tokenizer", "bpe", "--vocabulary-size", "300"],
        ["--replacement", "1", "0", "0", "--accumulation", "2", "--dropout", "0.1"],
    ],
    ids=str,
)
def test_every_choice_runs_to_the_end(recipe, texts, tmp_path, capsys, flags):
    code, out, err = run(recipe.main, ["--data", texts, "--out", tmp_path / "run", *SHORT, *flags], capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "run")


def test_interrupted_and_resumed_it_is_the_run_that_was_never_stopped(
    recipe, texts, finished, tmp_path, capsys, monkeypatch
):
    """Packing order, masks and optimizer: the journal is the same to the last digit, and so are the weights."""
    from mmssl.training.loop import Trainer

    step = Trainer._optimizer_step

    def interrupted(self, *arguments):
        step(self, *arguments)
        self.interrupted = self.step == 3

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", interrupted)
        code, out, _ = run(recipe.main, ["--data", texts, "--out", tmp_path / "run", *SHORT], capsys)
    assert code == INTERRUPTED
    assert "add --resume" in out
    code, _, err = run(recipe.main, ["--out", tmp_path / "run", "--resume"], capsys)
    assert code == 0, err
    for here, there in zip(
        read_journal(tmp_path / "run" / "journal.jsonl"), read_journal(finished / "journal.jsonl"), strict=True
    ):
        assert all(here[key] == there[key] for key in ("step", "loss", "reference", "learning_rate", "gradient_norm"))
    weights = [load_predictor(folder).state_dict() for folder in (tmp_path / "run", finished)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_fill_and_reveal(finished, texts, capsys):
    code, out, err = run(cli.main, ["fill", finished, "the [MASK] sees the [MASK]"], capsys)
    assert code == 0, err
    assert out.count("%") == 10
    assert "[MASK] 2" in out
    code, out, err = run(cli.main, ["reveal", finished], capsys)
    assert code == 0, err
    assert Path(out.splitlines()[-1]).is_file()
    code, out, err = run(cli.main, ["reveal", finished, "--data", texts, "--count", "3"], capsys)
    assert code == 0, err
    page = Path(out.splitlines()[-1]).read_text(encoding="utf-8")
    assert page.count("<article>") == 3
    assert "hidden; first guess right" in page


def test_pages_show_strangers_texts_as_text(tmp_path):
    tokens = [Token("<script>", True, (("</script>", 0.5), ("a&b", 0.2))), Token("[bold]", True)]
    page = write_texts([tokens], "<i>caption</i>", tmp_path / "page.html").read_text(encoding="utf-8")
    for word in ("<script>", "</script>", "<i>caption"):
        assert word not in page.split("</style>")[1]
    assert "&lt;script&gt;" in page
    assert "a&amp;b" in page
    assert "[bold]" in (tmp_path / "page.txt").read_text(encoding="utf-8")


def test_tokens_that_cannot_be_seen_are_spelled_out(tmp_path, capsys):
    """Byte-level vocabularies hold line ends, spaces and control characters."""
    guesses = ((" the", 0.5), ("\n", 0.2), (" ", 0.1), ("\x1b", 0.1), ("é\\", 0.1))
    write_texts([[Token("a", True, guesses), Token("\x1b[2J", True)]], "caption", tmp_path / "page.html")
    print_guesses("say [MASK]", [guesses])
    for text in (capsys.readouterr().out, *(file.read_text(encoding="utf-8") for file in tmp_path.iterdir())):
        assert "\x1b" not in text
        assert all(word in text for word in ("the", "\\n", "\\x1b", "\N{OPEN BOX}", "é\\"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["fill", "RUN", "no gap here"], "write [MASK]"),
        (["fill", "RUN", "the [MASK] " + "sees the cat " * 40], "this model reads 32"),
        (["reveal", "RUN", "--first", "10000"], "is beyond"),
        (["reveal", "RUN", "--count", "0"], "--count must be at least 1"),
    ],
)
def test_mistakes_at_the_commands_are_one_sentence(finished, capsys, command, words):
    code, _, err = run(cli.main, [str(finished) if word == "RUN" else word for word in command], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mask-fraction", "1.5"], "--mask-fraction must lie between 0 and 1"),
        (["--preset", "gigantic"], "choose one of nano"),
        (["--replacement", "0.8", "0.1", "0.5"], "sum to 1"),
        (["--max-length", "3"], "max_length must be at least 4"),
        (["--tokenizer", "nowhere"], "leave them out"),
        (["--vocabulary-size", "3"], "too small"),
        (["--vocabulary-size", "0"], "too small"),
        (["--validation-tokens", "0"], "--validation-tokens must be at least 1"),
        (["--dropout", "3"], "dropout must be at least 0"),
        (["--init", "nowhere"], "leave out --tokenizer and --vocabulary-size"),
    ],
)
def test_mistakes_in_flags_are_one_sentence(recipe, texts, tmp_path, capsys, flags, words):
    code, _, err = run(recipe.main, ["--data", texts, "--out", tmp_path / "run", *SHORT, *flags], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_help_names_every_preset(recipe, capsys):
    code, out, _ = run(recipe.main, ["--help"], capsys)
    assert code == 0
    assert all(name in out for name in PRESETS)


def test_a_missing_tokenizer_is_named(recipe, texts, tmp_path, capsys):
    flags = ["--data", texts, "--out", tmp_path / "run", "--steps", "4", "--tokenizer", tmp_path / "nowhere"]
    code, _, err = run(recipe.main, flags, capsys)
    assert code == 2
    assert str(tmp_path / "nowhere") in err
    assert "Traceback" not in err


def test_weights_of_another_task_are_no_start(recipe, texts, tmp_path, capsys):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(json.dumps({"predictor": "masked_autoencoder"}))
    flags = ["--data", texts, "--out", tmp_path / "run", "--steps", "4", "--init", tmp_path]
    code, _, err = run(recipe.main, flags, capsys)
    assert code == 2
    assert "is a masked_autoencoder, not an encoder of texts" in err


def test_a_run_of_another_recipe_is_not_resumed(finished, capsys):
    from scripts import ROOT, load_script

    before = (finished / "config.json").read_bytes()
    code, _, err = run(load_script(ROOT / "recipes" / "image_mae.py").main, ["--out", finished, "--resume"], capsys)
    assert code == 2
    assert "holds a run of another recipe, with a masked_language_model" in err
    assert (finished / "config.json").read_bytes() == before


def test_changed_texts_refuse_to_resume(recipe, texts, finished, tmp_path, capsys):
    import shutil

    copy, other = tmp_path / "run", tmp_path / "texts"
    shutil.copytree(finished, copy)
    shutil.copytree(texts, other)
    (other / "00.txt").write_text("the cat sees the dog .\n", encoding="utf-8")
    code, _, err = run(recipe.main, ["--out", copy, "--resume", "--data", other], capsys)
    assert code == 2
    assert "data fingerprint" in err


def test_a_sweep_trains_every_value_and_plots_them(texts, tmp_path, capsys):
    from scripts import ROOT, load_script

    sweep = load_script(ROOT / "recipes" / "sweep.py")
    flags = ["text_bert", "--out", tmp_path / "sweep", "--flag", "mask-fraction", "--values", "0.15", "0.5", "--",
             "--data", texts, *SHORT]  # fmt: skip
    code, out, err = run(sweep.main, flags, capsys)
    assert code == 0, err
    assert (tmp_path / "sweep" / "sweep.png").is_file()
    table = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["results"]
    assert list(table) == ["0.15", "0.5"]
    # the same 15 % are hidden in validation whatever is hidden in training
    assert table["0.15"][0]["val_reference"] == table["0.5"][0]["val_reference"]
    code, again, err = run(sweep.main, flags, capsys)
    assert code == 0, err
    assert again.split("val_skill, last step")[1] == out.split("val_skill, last step")[1]
    code, _, err = run(sweep.main, [*flags[:1], *flags[1:], "--seed", "3"], capsys)
    assert code == 2
    assert "--seed is what the sweep itself sets" in err
    code, _, err = run(sweep.main, ["audio_pretraining", *flags[1:]], capsys)
    assert code == 2
    known = err.split("choose one of ")[1].strip().split(", ")
    assert {"audio_best_rq", "av_masked", "image_mae", "text_bert"} <= set(known)
    assert not {"audio_pretraining", "sweep", "compare_perturbations"} & set(known)
