"""The recipe and the commands that read its run, as a user runs them: on files, by flags, with mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import run

from mmssl import cli
from mmssl.errors import INTERRUPTED
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_autoencoder import PRESETS
from mmssl.training.journal import read_journal

SHORT = ["--preset", "pico", "--steps", "4", "--batch-size", "8", "--log-every", "2", "--validate-every", "4",
         "--workers", "0", "--validation-images", "16", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world):
    """A run of four steps."""
    from scripts import ROOT, load_script

    out = tmp_path_factory.mktemp("runs") / "mae"
    load_script(ROOT / "recipes" / "image_mae.py").main(["--data", str(world), "--out", str(out), *SHORT])
    return out


@pytest.mark.parametrize("architecture", ["mae", "cross_mae", "simmim"])
@pytest.mark.parametrize("target", ["pixels", "normalized_pixels"])
def test_every_architecture_runs_to_the_end(recipe, world, tmp_path, capsys, architecture, target):
    flags = ["--architecture", architecture, "--target", target, "--data", world, "--out", tmp_path / "run"]
    code, out, err = run(recipe.main, [*flags, *SHORT], capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "run")
    entries = read_journal(tmp_path / "run" / "journal.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4]
    promised = {"step", "loss", "reference", "skill", "learning_rate", "samples_per_second"}
    assert all(promised <= entry.keys() for entry in entries)
    assert {"val_loss", "val_skill", "val_skill_interpolation"} <= entries[-1].keys()


def test_run_folder_is_complete(finished):
    for name in ("config.json", "journal.jsonl", "skipped.jsonl", "checkpoints/latest", "model/model.safetensors",
                 "model/config.json", "reveal/step-00000004.png"):  # fmt: skip
        assert (finished / name).is_file(), name
    config = json.loads((finished / "config.json").read_text())
    assert config["config"]["learning_rate"] > 0
    assert config["data"]["train"] + config["data"]["val"] <= 160
    predictor = load_predictor(finished)
    assert predictor.config.image_size == (32, 32)
    assert predictor.config.mean != (0.5,)
    with Image.open(finished / "reveal" / "step-00000004.png") as picture:
        assert np.asarray(picture).std() > 10


def test_grey_wide_pictures_of_odd_patches(recipe, tmp_path, capsys):
    """Nothing is square, three-channel or of one size."""
    folder = tmp_path / "photos" / "nested" / "deeper"
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for index in range(30):
        shape = (numbers.integers(40, 60), numbers.integers(50, 90))
        Image.fromarray(numbers.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{index}.png")
    flags = ["--data", tmp_path / "photos", "--out", tmp_path / "run", "--channels", 1]
    code, out, err = run(recipe.main, [*flags, "--image-size", 24, 48, "--patch-size", 4, 12, *SHORT], capsys)
    assert code == 0, err
    config = load_predictor(tmp_path / "run").config
    assert (config.image_size, config.patch_size, config.channels) == ((24, 48), (4, 12), 1)
    code, out, err = run(cli.main, ["reveal", tmp_path / "run"], capsys)
    assert code == 0, err
    assert Path(out.strip()).is_file()


def test_resume_extends_nothing_and_refuses_another_task(recipe, world, finished, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    before = (copy / "journal.jsonl").read_text()
    code, _, err = run(recipe.main, ["--data", world, "--out", copy, *SHORT], capsys)
    assert code == 2
    assert "already holds a run: add --resume" in err
    code, _, err = run(recipe.main, ["--out", copy, "--resume", "--mask-fraction", "0.5"], capsys)
    assert code == 2
    assert "mask_fraction: was 0.75, now 0.5" in err
    assert "Traceback" not in err
    assert (copy / "journal.jsonl").read_text() == before
    code, out, err = run(recipe.main, ["--out", copy, "--resume"], capsys)
    assert code == 0, err
    assert out.splitlines()[-1] == str(copy)
    assert (copy / "journal.jsonl").read_text() == before


def test_interrupt_then_resume(recipe, world, tmp_path, capsys, monkeypatch):
    from mmssl.training.loop import Trainer

    step = Trainer._optimizer_step

    def interrupted(self, *arguments):
        step(self, *arguments)
        self.interrupted = self.step == 2

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", interrupted)
        code, out, _ = run(recipe.main, ["--data", world, "--out", tmp_path / "run", *SHORT], capsys)
    assert code == INTERRUPTED
    assert "add --resume" in out
    code, out, err = run(recipe.main, ["--out", tmp_path / "run", "--resume"], capsys)
    assert code == 0, err
    assert read_journal(tmp_path / "run" / "journal.jsonl")[-1]["step"] == 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mask-fraction", "1.5"], "--mask-fraction must lie between 0 and 1"),
        (["--mask-fraction", "0.999"], "leaves nothing visible"),
        (["--patch-size", "5"], "does not divide"),
        (["--image-size", "1", "2", "3"], "--image-size takes one number"),
        (["--preset", "gigantic"], "choose one of pico, nano"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used here"),
        (["--image-size", "64", "--patch-size", "64"], "64x64"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--decoded-fraction", "0"], "decoded_fraction must be above 0"),
        (["--channels", "0"], "--channels and --validation-images must be at least 1"),
    ],
)
def test_impossible_flags_are_one_sentence(recipe, world, tmp_path, capsys, flags, words):
    code, _, err = run(recipe.main, ["--data", world, "--out", tmp_path / "run", *SHORT, *flags], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_help_names_every_preset(recipe, capsys):
    code, out, _ = run(recipe.main, ["--help"], capsys)
    assert code == 0
    assert all(name in out for name in PRESETS)


def test_misspelt_flag_suggests_the_right_one(recipe, world, tmp_path, capsys):
    code, _, err = run(recipe.main, ["--data", world, "--out", tmp_path / "run", "--mask-fractoin", "0.5"], capsys)
    assert code == 2
    assert "--mask-fraction" in err


def test_data_mistakes(recipe, tmp_path, capsys):
    empty, words = tmp_path / "empty", tmp_path / "words"
    empty.mkdir()
    words.mkdir()
    (words / "notes.txt").write_text("no pictures here")
    for data, expected in (
        (tmp_path / "missing", "does not exist"),
        (empty, "holds no images"),
        (words, "holds no images"),
    ):
        code, _, err = run(recipe.main, ["--data", data, "--out", tmp_path / "run", *SHORT], capsys)
        assert code == 2
        assert expected in err
        assert str(data) in err
        assert len(err.strip().splitlines()) == 1


def test_the_run_folder_is_looked_at_before_the_data(recipe, finished, tmp_path, capsys):
    nowhere = tmp_path / "missing"
    for flags, words in (
        (["--out", finished], "already holds a run"),
        (["--out", tmp_path / "new", "--resume"], "no run to resume"),
    ):
        code, _, err = run(recipe.main, ["--data", nowhere, *flags], capsys)
        assert code == 2
        assert words in err


def test_a_single_picture_is_too_few(recipe, world, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    shutil.copy(next(world.rglob("*.png")), tmp_path / "one")
    code, _, err = run(recipe.main, ["--data", tmp_path / "one", "--out", tmp_path / "run", *SHORT], capsys)
    assert code == 2
    assert "it has 1 in train: add some" in err


def test_a_picture_is_written_as_png_only(finished, tmp_path, capsys):
    code, _, err = run(cli.main, ["reveal", finished, "--out", tmp_path / "page.html"], capsys)
    assert code == 2
    assert "page.html is not named as a picture" in err


def test_a_probe_refuses_a_single_class_and_a_file_to_write_into(finished, world, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    files = sorted(world.rglob("*.png"))[:8]
    for file in files:
        shutil.copy(file, folder)
    (folder / "labels.csv").write_text("file,kind\n" + "".join(f"{file.name},same\n" for file in files))
    code, _, err = run(cli.main, ["probe", finished, "--data", folder], capsys)
    assert code == 2
    assert "has a single class" in err
    code, _, err = run(cli.main, ["probe", finished, "--data", world, "--out", folder / "labels.csv"], capsys)
    assert code == 2
    assert "labels.csv is a file: choose a folder" in err


def test_too_many_broken_files_stop_the_run(recipe, world, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, file in enumerate(sorted(world.rglob("*.png"))[:40]):
        data = file.read_bytes()
        (folder / f"{index:03d}.png").write_bytes(data[: len(data) // 2] if index % 4 == 0 else data)
    code, _, err = run(recipe.main, ["--data", folder, "--out", tmp_path / "run", *SHORT], capsys)
    assert code == 2
    assert "cannot be used" in err
    assert "Traceback" not in err


def test_one_broken_file_is_skipped_and_listed(recipe, world, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, file in enumerate(sorted(world.rglob("*.png"))[:60]):
        data = file.read_bytes()
        (folder / f"{index:03d}.png").write_bytes(data[: len(data) // 2] if index == 7 else data)
    code, _, err = run(recipe.main, ["--data", folder, "--out", tmp_path / "run", *SHORT], capsys)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["007.png"]
    assert rows[0]["reason"]


def test_probe_prints_a_table_and_writes_json(finished, world, capsys):
    flags = ["--data", world, "--label", "colour", "--seeds", "2", "--finetune-labels"]
    code, out, err = run(cli.main, ["probe", finished, *flags], capsys)
    assert code == 0, err
    assert "raw input" in out
    assert "random init" in out
    report = json.loads((finished / "probe" / "probe-colour.json").read_text())
    assert report["label"] == "colour"


def test_commands_refuse_what_is_no_run(tmp_path, world, capsys):
    for command in (["reveal", tmp_path], ["probe", tmp_path, "--data", world],
                    ["export", tmp_path, "--to", "timm", "--out", tmp_path / "x"]):  # fmt: skip
        code, _, err = run(cli.main, command, capsys)
        assert code == 2
        assert str(tmp_path) in err
        assert len(err.strip().splitlines()) == 1


def test_inspect_tells_what_is_there(world, capsys):
    code, out, err = run(cli.main, ["inspect", world], capsys)
    assert code == 0, err
    assert "160" in out


def test_init_starts_from_another_run(recipe, world, finished, tmp_path, capsys):
    flags = ["--data", world, "--out", tmp_path / "run", "--init", finished, *SHORT, "--learning-rate", "1e-12"]
    code, out, err = run(recipe.main, flags, capsys)
    assert code == 0, err
    assert "init" in out
    first = read_journal(tmp_path / "run" / "journal.jsonl")[-1]["val_loss"]
    assert first == pytest.approx(read_journal(finished / "journal.jsonl")[-1]["val_loss"], rel=1e-4)
    code, _, err = run(recipe.main, ["--data", world, "--out", tmp_path / "x", "--init", tmp_path, *SHORT], capsys)
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_control_c_from_a_terminal_with_workers(world, tmp_path):
    """A terminal interrupts the whole process group, the workers that read data among them."""
    script = Path(__file__).parents[2] / "recipes" / "image_mae.py"
    flags = [
        "--data",
        world,
        "--out",
        tmp_path / "run",
        *SHORT,
        "--steps",
        "100000",
        "--cache",
        "none",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(
        [sys.executable, script, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("step "):
            break
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, err
    assert "Traceback" not in err
    assert "add --resume" in out
    assert (tmp_path / "run" / "checkpoints" / "latest").is_file()
