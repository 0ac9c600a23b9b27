"""The recipes of recordings and the commands that read their runs, as a user runs them."""

import json
import shutil
from pathlib import Path

import pytest
from scripts import ROOT, load_script, run
from spoken import write_spoken

from mmssl import cli
from mmssl.errors import INTERRUPTED
from mmssl.evaluation.ctc import CtcConfig
from mmssl.evaluation.finetune import FinetuneConfig
from mmssl.predictors import load_predictor
from mmssl.training.journal import read_journal

SHORT = ["--steps", "4", "--batch-size", "16", "--max-seconds", "2", "--log-every", "2", "--validate-every", "4",
         "--workers", "0", "--device", "cpu"]  # fmt: skip
RECIPES = ("audio_best_rq", "audio_wav2vec2")


@pytest.fixture(scope="module")
def recipes():
    return {name: load_script(ROOT / "recipes" / f"{name}.py") for name in RECIPES}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    folder = write_spoken(tmp_path_factory.mktemp("spoken"))
    (folder / "text.wav").write_text("no sound at all\n")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipes, spoken):
    runs = {}
    for name in RECIPES:
        runs[name] = tmp_path_factory.mktemp("runs") / name
        recipes[name].main(["--data", str(spoken), "--out", str(runs[name]), *SHORT])
    return runs


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_folder_is_complete(finished, name):
    for file in ("config.json", "journal.jsonl", "skipped.jsonl", "checkpoints/latest", "model/model.safetensors",
                 "model/config.json", "reveal/step-00000004.png", "reveal/step-00000004.html", "reveal/clip-1.wav",
                 "reveal/clip-1-hidden.wav"):  # fmt: skip
        assert (finished[name] / file).is_file(), file
    entries = read_journal(finished[name] / "journal.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4]
    logged = {"loss", "reference", "skill", "accuracy", "code_perplexity", "mask_coverage", "gradient_norm"}
    assert all(logged <= entry.keys() for entry in entries)
    assert {"val_loss", "val_skill", "val_accuracy"} <= entries[-1].keys()
    assert 0.4 < entries[-1]["mask_coverage"] < 0.6
    assert "text.wav" in (finished[name] / "skipped.jsonl").read_text()
    assert load_predictor(finished[name]).name == name.removeprefix("audio_")


def test_what_a_run_chose_is_written_down(finished):
    saved = json.loads((finished["audio_wav2vec2"] / "config.json").read_text())
    assert saved["config"]["warmup_steps"] == 1
    # 4 steps: the temperature falls from 2 to 0.5 in 69 % of them
    assert saved["predictor"]["gumbel_decay"] == pytest.approx(0.25 ** (1 / (0.69 * 4)))
    assert saved["config"]["learning_rate"] == pytest.approx(1e-3 * (16 / 24) ** 0.5)


@pytest.mark.parametrize("name", RECIPES)
def test_interrupted_and_resumed_it_is_the_run_that_was_never_stopped(
    recipes, spoken, finished, tmp_path, capsys, monkeypatch, name
):
    """Order, masks, temperature and optimizer: the journal is the same to the last digit, and so are the weights."""
    from mmssl.training.loop import Trainer

    step = Trainer._optimizer_step

    def interrupted(self, *arguments):
        step(self, *arguments)
        self.interrupted = self.step == 3

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", interrupted)
        code, out, _ = run(recipes[name].main, ["--data", spoken, "--out", tmp_path / "run", *SHORT], capsys)
    assert code == INTERRUPTED
    assert "add --resume" in out
    code, _, err = run(recipes[name].main, ["--out", tmp_path / "run", "--resume"], capsys)
    assert code == 0, err
    for here, there in zip(
        read_journal(tmp_path / "run" / "journal.jsonl"), read_journal(finished[name] / "journal.jsonl"), strict=True
    ):
        times = {"seconds", "samples_per_second", "data_wait", "validation_seconds"}
        assert {key: here[key] for key in here if key not in times} == {
            key: there[key] for key in there if key not in times
        }
    weights = [load_predictor(folder).state_dict() for folder in (tmp_path / "run", finished[name])]
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("audio_best_rq", ["--codebooks", "2", "--codebook-size", "32", "--span", "4"]),
        (
            "audio_wav2vec2",
            ["--negatives", "10", "--accumulation", "2", "--diversity-weight", "0.2", "--cache", "none"],
        ),
    ],
)
def test_every_choice_runs_to_the_end(recipes, spoken, tmp_path, capsys, name, flags):
    code, out, err = run(recipes[name].main, ["--data", spoken, "--out", tmp_path / "run", *SHORT, *flags], capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "run")


def test_one_starts_from_the_encoder_of_the_other(recipes, spoken, finished, tmp_path, capsys):
    flags = ["--data", spoken, "--out", tmp_path / "run", *SHORT, "--init", finished["audio_wav2vec2"]]
    code, out, err = run(recipes["audio_best_rq"].main, flags, capsys)
    assert code == 0, err
    assert "encoder 4 x 192; new: the rest" in out


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("audio_best_rq", ["--mask-fraction", "1.5"], "--mask-fraction must lie between 0 and 1"),
        ("audio_best_rq", ["--preset", "gigantic"], "choose one of nano"),
        ("audio_best_rq", ["--max-seconds", "20"], "raise --batch-size or lower --max-seconds"),
        ("audio_best_rq", ["--min-seconds", "0.05"], "less than two steps"),
        ("audio_wav2vec2", ["--data", "nowhere"], "nowhere does not exist"),
        ("audio_wav2vec2", ["--span", "0"], "span must be at least 1"),
        ("audio_wav2vec2", ["--init", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_in_flags_are_one_sentence(recipes, spoken, tmp_path, capsys, name, flags, words):
    code, _, err = run(recipes[name].main, ["--data", spoken, "--out", tmp_path / "run", *SHORT, *flags], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", RECIPES)
def test_reveal_writes_a_page_and_a_picture(finished, spoken, tmp_path, capsys, name):
    code, out, err = run(cli.main, ["reveal", finished[name]], capsys)
    assert code == 0, err
    page = Path(out.splitlines()[-1])
    assert page.with_suffix(".png").is_file()
    shutil.copytree(spoken, tmp_path / "data")
    (tmp_path / "data" / "ann-00.wav").rename(tmp_path / "data" / "<b>&.wav")
    flags = ["--data", tmp_path / "data", "--count", "2", "--out", tmp_path / "seen.html"]
    code, out, err = run(cli.main, ["reveal", finished[name], *flags], capsys)
    assert code == 0, err
    assert "hidden" in out
    text = (tmp_path / "seen.html").read_text()
    assert text.count("<audio") == 2 * text.count("<article>") > 0
    assert "http" not in text


def probe(finished, capsys, *flags) -> str:
    code, out, err = run(cli.main, ["probe", finished, "--seeds", "1", *flags], capsys)
    assert code == 0, err
    return " ".join(out.split())


def test_probe_of_clips_and_of_words_in_time(finished, spoken, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmssl.evaluation.audio_runs.FINETUNING", FinetuneConfig(steps=2, batch_size=4))
    flags = ["--data", spoken, "--out", tmp_path]
    said = probe(finished["audio_best_rq"], capsys, *flags, "--finetune-labels", "10")
    assert "log-mel (mean, std of 4 parts)" in said
    assert "speakers that the train part has not" in said
    clips = json.loads((tmp_path / "probe-label.json").read_text())
    assert clips["train_samples"] + clips["test_samples"] == 40
    assert {"finetune", "linear", "knn"} == {row["method"] for row in clips["results"]}
    assert {"layer 1", "layer 2", "layer 3", "mean", "best layer"} <= {row["feature"] for row in clips["results"]}

    said = probe(finished["audio_wav2vec2"], capsys, *flags, "--label", "words", "--held-out-speakers", "1")
    assert "nothing is fine-tuned" in said
    words = json.loads((tmp_path / "probe-words.json").read_text())
    assert words["train_samples"] + words["test_samples"] == 100
    raw = [
        row["mean"] for row in words["results"] if row["representation"] == "raw input" and row["method"] == "linear"
    ]
    assert raw[-1] > 0.9  # tones are told by their frequency, also of a voice that was not heard


def test_a_ctc_head_is_trained_on_every_representation(finished, spoken, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmssl.evaluation.audio_runs.TRANSCRIBING", CtcConfig(steps=20))
    flags = ["--data", spoken, "--out", tmp_path, "--transcribe", "auto", "--held-out-speakers", "0"]
    said = probe(finished["audio_wav2vec2"], capsys, *flags)
    assert "transcribing by words (3 different)" in said
    found = json.loads((tmp_path / "ctc.json").read_text())
    assert found["errors"].keys() == {"pretrained", "random init", "raw input"}
    assert all(0 <= rates[0] < 10 for rates in found["errors"].values())
    assert found["settings"]["steps"] == 20
    assert found["train_samples"] + found["test_samples"] == 40


def test_flags_of_recordings_are_refused_by_other_runs(world, recipe, tmp_path, capsys):
    flags = ["--steps", "1", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--validation-images", "8"]
    recipe.main(["--data", str(world), "--out", str(tmp_path / "run"), *flags])
    capsys.readouterr()
    for flags in (["--transcribe", "auto"], ["--held-out-speakers", "1"]):
        code, _, err = run(cli.main, ["probe", tmp_path / "run", "--data", world, "--label", "shape", *flags], capsys)
        assert code == 2
        assert "are for runs on recordings" in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["reveal", "RUN", "--first", "10000"], "is beyond"),
        (["reveal", "RUN", "--count", "0"], "--count must be at least 1"),
        (["probe", "RUN", "--data", "DATA", "--label", "nothing"], "no column 'nothing'"),
        (["probe", "RUN", "--data", "DATA", "--transcribe", "auto", "--label", "words"], "whole transcripts"),
        (["export", "RUN", "--to", "timm", "--out", "OUT"], "--to transformers"),
        (["export", "RUN", "--to", "transformers", "--out", "OUT"], "only runs with a waveform front end"),
    ],
)
def test_mistakes_at_the_commands_are_one_sentence(finished, spoken, tmp_path, capsys, command, words):
    names = {"RUN": finished["audio_wav2vec2"], "DATA": spoken, "OUT": tmp_path / "out"}
    code, _, err = run(cli.main, [names.get(word, word) for word in command], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
