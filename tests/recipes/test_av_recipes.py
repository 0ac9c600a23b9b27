"""The recipes of videos and the commands that read their runs, as a user runs them."""

import json
from pathlib import Path

import pytest
from scripts import ROOT, load_script, run
from talking import write_talking

from mmssl import cli
from mmssl.errors import INTERRUPTED
from mmssl.predictors import load_predictor
from mmssl.training.journal import read_journal

pytest.importorskip("av")

SHORT = ["--steps", "4", "--batch-size", "4", "--log-every", "2", "--validate-every", "4", "--workers", "0", "--device",
         "cpu", "--size", "32", "32", "--mels", "40"]  # fmt: skip
RECIPES = {
    "av_sync": ["--frames", "20"],
    "av_masked": ["--frames", "12", "--cube", "2", "8", "8"],
}


@pytest.fixture(scope="module")
def recipes():
    return {name: load_script(ROOT / "recipes" / f"{name}.py") for name in RECIPES}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = write_talking(tmp_path_factory.mktemp("talking") / "videos", count=10)
    (folder / "broken.mp4").write_text("no video at all\n")
    with (folder / "manifest.jsonl").open("a") as stream:
        stream.write(json.dumps({"file": "broken.mp4", "split": "val"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def flags(videos, tmp_path_factory) -> list[str]:
    return ["--data", str(videos), "--cache", str(tmp_path_factory.mktemp("clips") / "clips"), *SHORT]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recipes, flags):
    runs = {}
    for name, own in RECIPES.items():
        runs[name] = tmp_path_factory.mktemp("runs") / name
        recipes[name].main([*flags, *own, "--out", str(runs[name])])
    return runs


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_folder_is_complete(finished, name):
    for file in ("config.json", "journal.jsonl", "skipped.jsonl", "checkpoints/latest", "model/model.safetensors",
                 "model/config.json", "reveal/step-00000004.png"):  # fmt: skip
        assert (finished[name] / file).is_file(), file
    entries = read_journal(finished[name] / "journal.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4]
    own = {"shift_top1", "shift_chance", "accuracy", "scale"} if name == "av_sync" else {"mask_coverage"}
    assert all({"loss", "reference", "skill", "gradient_norm"} | own <= entry.keys() for entry in entries)
    held_out = {"val_shift_top1", "val_shift_chance"}
    if name == "av_masked":
        held_out = {
            f"val_skill_{one}_from_{other}" for one in ("sound", "sight") for other in ("sound", "sight", "both")
        }
    assert {"val_loss", "val_skill"} | held_out <= entries[-1].keys()
    assert "broken.mp4" in (finished[name] / "skipped.jsonl").read_text()
    predictor = load_predictor(finished[name])
    assert predictor.config.clip.picture_size == (32, 32)
    assert predictor.config.clip.mel.mels == 40


def test_top1_stands_beside_chance_from_the_first_validation_on(recipes, flags, tmp_path, capsys):
    own = ["--frames", "20", "--out", tmp_path / "run", "--validate-every", "2"]
    code, out, err = run(recipes["av_sync"].main, [*flags, *own], capsys)
    assert code == 0, err
    assert out.count("val_shift_top1") == out.count("val_shift_chance") == 2
    assert "mask-fraction" not in err


@pytest.mark.parametrize("name", RECIPES)
def test_interrupted_and_resumed_it_is_the_run_that_was_never_stopped(
    recipes, flags, finished, tmp_path, capsys, monkeypatch, name
):
    """Order, windows, variations, masks, norms and optimizer: the journal is the same to the last digit."""
    from mmssl.training.loop import Trainer

    step = Trainer._optimizer_step

    def interrupted(self, *arguments):
        step(self, *arguments)
        self.interrupted = self.step == 3

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", interrupted)
        code, out, _ = run(recipes[name].main, [*flags, *RECIPES[name], "--out", tmp_path / "run"], capsys)
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
    ("name", "more"),
    [
        ("av_sync", ["--objective", "correspondence", "--negatives", "both", "--curriculum-steps", "3"]),
        ("av_sync", ["--objective", "correspondence", "--off-grid-negatives", "--accumulation", "2"]),
        ("av_sync", ["--negatives", "clips", "--window", "4", "--colour", "rgb"]),
        ("av_masked", ["--sampler", "random", "--target", "pixels", "--whole", "0"]),
    ],
)
def test_every_choice_runs_to_the_end(recipes, flags, tmp_path, capsys, name, more):
    cache = ["--cache", tmp_path / "rgb"] if "rgb" in more else []
    code, out, err = run(recipes[name].main, [*flags, *RECIPES[name], "--out", tmp_path / "run", *more, *cache], capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "run")


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_starts_from_another(recipes, flags, finished, tmp_path, capsys, name):
    own = [*flags, *RECIPES[name], "--out", tmp_path / "run", "--init", finished[name]]
    code, out, err = run(recipes[name].main, own, capsys)
    assert code == 0, err
    assert "all weights of" in out
    other = next(each for each in RECIPES if each != name)
    own[-1], own[own.index("--out") + 1] = finished[other], tmp_path / "again"
    code, _, err = run(recipes[name].main, own, capsys)
    assert code == 2
    assert "holds another model" in err


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("av_sync", ["--preset", "gigantic"], "choose one of pico"),
        ("av_sync", ["--frames", "6"], "--frames 6 must be at least"),
        ("av_sync", ["--fps", "24"], "does not divide a video frame"),
        ("av_sync", ["--off-grid-negatives"], "weakness of correspondence"),
        ("av_sync", ["--data", "nowhere"], "nowhere does not exist"),
        ("av_masked", ["--mask-fraction", "1.5"], "--mask-fraction must lie between 0 and 1"),
        ("av_masked", ["--cube", "5", "8", "8"], "do not divide clips of 12 frames"),
        ("av_masked", ["--frames", "60"], "fewer than the 60 wanted"),
    ],
)
def test_mistakes_in_flags_are_one_sentence(recipes, flags, tmp_path, capsys, name, more, words):
    code, _, err = run(recipes[name].main, [*flags, *RECIPES[name], "--out", tmp_path / "run", *more], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", RECIPES)
def test_reveal_draws_held_out_clips(finished, videos, capsys, name):
    code, out, err = run(cli.main, ["reveal", finished[name]], capsys)
    assert code == 0, err
    assert Path(out.splitlines()[-1]).is_file()
    code, _, err = run(cli.main, ["reveal", finished[name], "--first", "100"], capsys)
    assert code == 2
    assert "is beyond" in err
    code, _, err = run(cli.main, ["probe", finished[name], "--data", videos], capsys)
    assert code == 2
    assert "there are no probes" in err


@pytest.mark.parametrize("name", RECIPES)
def test_the_doctor_has_nothing_to_say(finished, capsys, name):
    code, out, err = run(cli.main, ["doctor", finished[name]], capsys)
    assert code == 0, err
    assert "nothing to worry about" in out
