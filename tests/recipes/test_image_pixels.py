"""Recipes of colorization, inpainting, super-resolution and restoration, and the commands that read their runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import ROOT, load_script, run

from mmssl import cli
from mmssl.errors import INTERRUPTED
from mmssl.evaluation.reveal import HEADER, LINE, MARGIN
from mmssl.predictors import load_predictor
from mmssl.training.journal import read_journal

TASKS = {
    "colorization": ["--temperature", "1"],
    "inpainting": ["--hole", "blocks"],
    "super_resolution": ["--scale", "2"],
    "restoration": ["--perturbations", "mask=0.5", "blur=1"],
}
SHORT = ["--preset", "pico", "--image-size", "32", "--decoder-dim", "8", "--detail", "1", "--steps", "4",
         "--batch-size", "8", "--log-every", "2", "--validate-every", "4", "--workers", "0",
         "--device", "cpu"]  # fmt: skip
STILL = ["--learning-rate", "1e-12"]
"""Nothing is learned: what comes out is the guess without learning."""


def recipe_of(task: str):
    return load_script(ROOT / "recipes" / f"image_{task}.py").main


def write_photos(folder: Path, count: int = 60, size: tuple[int, int] = (48, 60)) -> Path:
    """Pictures with smooth colours and sharp edges."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for index in range(count):
        coarse = torch.from_numpy(numbers.uniform(0, 255, (1, 3, 4, 5)))
        image = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].permute(1, 2, 0).numpy()
        image[numbers.integers(5, 40) :, numbers.integers(5, 50) :] *= 0.4
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A run of each task, of four steps so small that nothing was learned."""
    folder = tmp_path_factory.mktemp("runs")
    for task, flags in TASKS.items():
        recipe_of(task)(["--data", str(photos), "--out", str(folder / task), *SHORT, *STILL, *flags])
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_a_run_begins_at_the_guess_without_learning_and_says_how_good_that_is(finished, task):
    entries = read_journal(finished / task / "journal.jsonl")
    assert [entry["step"] for entry in entries] == [2, 4]
    last = entries[-1]
    assert last["val_skill"] == pytest.approx(0, abs=1e-3)
    assert all(entry["skill"] == pytest.approx(0, abs=1e-3) for entry in entries)
    if task == "colorization":
        assert last["val_reference_ab"] > 5
        assert last["val_chroma"] < last["val_chroma_true"]
    else:
        assert last["val_psnr"] == pytest.approx(last["val_psnr_trivial"], abs=1e-3)
        assert last["val_ssim"] == pytest.approx(last["val_ssim_trivial"], abs=1e-3)
        assert last["val_psnr"] > 5
        assert 0 < last["val_ssim"] < 1
    for name in ("reveal/step-00000004.png", "model/model.safetensors", "checkpoints/latest", "skipped.jsonl"):
        assert (finished / task / name).is_file(), name


@pytest.mark.parametrize("task", TASKS)
def test_reveal_shows_the_pictures_of_validation_and_prints_what_the_journal_says(finished, photos, task, capsys):
    code, out, err = run(cli.main, ["reveal", finished / task], capsys)
    assert code == 0, err
    *measures, sheet = out.splitlines()
    last = read_journal(finished / task / "journal.jsonl")[-1]
    if task == "colorization":
        assert [line.split()[:2] for line in measures] == [["ab", "error"]]
    else:
        psnr, ssim = measures
        assert psnr.startswith(f"{last['val_psnr']:.1f} dB on average, {last['val_psnr_trivial']:.1f} dB without")
        assert ssim.startswith(f"SSIM {last['val_ssim']:.3f} on average")
    # the first column, first row: the middle of a picture as it is, or of colorization the largest square, shrunk
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    zoom = (pixels.shape[1] - 5 * MARGIN) // 4 // 32
    shown = pixels[HEADER : HEADER + 32 * zoom : zoom, MARGIN : MARGIN + 32 * zoom : zoom]
    largest = task == "colorization"
    box = (6, 0, 54, 48) if largest else (14, 8, 46, 40)
    crops = [Image.open(file).crop(box).resize((32, 32), Image.Resampling.BILINEAR) for file in photos.iterdir()]
    least = min(np.abs(shown.astype(int) - np.asarray(crop)).max() for crop in crops)
    assert least <= (2 if largest else 0)
    row = 32 * zoom + MARGIN + LINE  # measures are below the third and fourth column, and only there
    assert row - MARGIN < pixels.shape[0]
    strip = pixels[HEADER + 32 * zoom : HEADER + 32 * zoom + LINE]
    written = [(strip[:, MARGIN + column * (32 * zoom + MARGIN) :][:, : 32 * zoom] < 200).any() for column in range(4)]
    assert written == [False, False, True, True]


@pytest.mark.parametrize("task", TASKS)
def test_a_probe_of_every_task(finished, world, tmp_path, task, capsys):
    flags = ["--data", world, "--label", "colour", "--seeds", "1", "--no-by-layer", "--out", tmp_path]
    code, out, err = run(cli.main, ["probe", finished / task, *flags, "--finetune-labels"], capsys)
    assert code == 0, err
    assert "raw input" in out
    assert "random init" in out


@pytest.mark.parametrize("task", ["colorization", "inpainting"])
def test_interrupted_and_resumed_it_is_the_run_that_was_never_stopped(
    finished, photos, tmp_path, task, capsys, monkeypatch
):
    from mmssl.training.loop import Trainer

    step = Trainer._optimizer_step

    def interrupted(self, *arguments):
        step(self, *arguments)
        self.interrupted = self.step == 2

    flags = ["--data", photos, "--out", tmp_path / "run", *SHORT, *STILL, *TASKS[task]]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", interrupted)
        code, out, _ = run(recipe_of(task), flags, capsys)
    assert code == INTERRUPTED
    assert "add --resume" in out
    code, out, err = run(recipe_of(task), ["--out", tmp_path / "run", "--resume"], capsys)
    assert code == 0, err
    ours, theirs = load_predictor(tmp_path / "run").state_dict(), load_predictor(finished / task).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("task", "flags", "words"),
    [
        ("inpainting", ["--mask-fraction", "1.5"], "--mask-fraction must lie between 0 and 1"),
        ("inpainting", ["--zoom", "2", "1"], "crop zoom (2.0, 1.0) is impossible"),
        ("inpainting", ["--zoom", "1", "1", "--crop-scale", "0.5", "1"], "give one of them"),
        ("inpainting", ["--preset", "gigantic"], "choose one of pico, nano"),
        ("inpainting", ["--timm-model", "resnet18", "--preset", "tiny"], "stands in for --preset tiny"),
        ("inpainting", ["--timm-model", "resnet18", "--patch-size", "8"], "has its own strides"),
        ("inpainting", ["--timm-model", "resnet10000"], "timm has no model 'resnet10000'"),
        ("inpainting", ["--pretrained"], "--pretrained loads the weights of --timm-model"),
        ("super_resolution", ["--image-size", "30", "--scale", "4"], "scale 4 does not divide"),
        ("super_resolution", ["--image-size", "256"], "256x256"),
        ("super_resolution", ["--channels", "4"], "1 is grey, 3 is colour"),
        ("restoration", ["--perturbations", "blurr=2"], "blur"),
        ("restoration", ["--perturbations", "mask=2"], "mask"),
        ("colorization", ["--channels", "1"], "3 channels"),
        ("colorization", ["--temperature", "2"], "temperature"),
    ],
)
def test_impossible_flags_are_one_sentence(photos, tmp_path, capsys, task, flags, words):
    code, _, err = run(recipe_of(task), ["--data", photos, "--out", tmp_path / "run", *SHORT, *flags], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_only_what_hides_a_share_has_a_mask_fraction(photos, tmp_path, capsys):
    flags = ["--data", photos, "--out", tmp_path, "--mask-fraction", "0.5"]
    code, _, err = run(recipe_of("restoration"), flags, capsys)
    assert code == 2
    assert "--mask-fraction" in err


def test_a_model_of_timm_in_place_of_the_trunk(photos, tmp_path, capsys):
    flags = ["--timm-model", "test_resnet", "--data", photos, "--out", tmp_path / "run"]
    code, out, err = run(recipe_of("inpainting"), [*flags, *SHORT], capsys)
    assert code == 0, err
    assert "model      inpainting, test_resnet," in out
    predictor = load_predictor(tmp_path / "run")
    assert predictor.config.encoder is None
    assert predictor.network.backbone.model.conv1[0].in_channels == 4  # the hole is the fourth


def test_a_trained_mae_starts_an_inpainter(photos, tmp_path, capsys):
    common = ["--data", photos, "--image-size", "32", "--steps", "2", "--batch-size", "8", "--workers", "0"]
    code, _, err = run(recipe_of("mae"), [*common, "--out", tmp_path / "mae"], capsys)
    assert code == 0, err
    flags = [*common, *STILL, "--out", tmp_path / "run", "--init", tmp_path / "mae"]
    code, out, err = run(recipe_of("inpainting"), flags, capsys)
    assert code == 0, err
    assert "init  " in out
    ours, theirs = load_predictor(tmp_path / "run").state_dict(), load_predictor(tmp_path / "mae").state_dict()
    name = "blocks.0.attention.qkv.weight" if "encoder.blocks.0.attention.qkv.weight" in theirs else None
    name = name or next(key.removeprefix("encoder.") for key in theirs if key.startswith("encoder.blocks.0"))
    assert torch.allclose(ours[f"network.backbone.encoder.{name}"], theirs[f"encoder.{name}"], atol=1e-6)


def test_grey_pictures_teach_no_colours(photos, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, file in enumerate(sorted(photos.iterdir())):
        picture = Image.open(file)
        (picture.convert("L") if number % 3 == 0 else picture).save(mixed / file.name)
    code, out, err = run(recipe_of("colorization"), ["--data", mixed, "--out", tmp_path / "run", *SHORT], capsys)
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("warning"))
    assert "training pictures looked at are grey" in line
    train = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["train"]
    assert abs(int(line.split()[1]) - train / 3) < 4
    for file in mixed.iterdir():
        Image.open(file).convert("L").save(file)
    code, _, err = run(recipe_of("colorization"), ["--data", mixed, "--out", tmp_path / "grey", *SHORT], capsys)
    assert code == 2
    assert "are grey: give some that have colours" in err
    assert len(err.strip().splitlines()) == 1


def test_super_resolution_learns_from_no_enlarged_picture(tmp_path, capsys):
    folder = write_photos(tmp_path / "photos")
    small = folder / "07.png"
    Image.open(small).resize((31, 48)).save(small)
    flags = ["--data", folder, "--channels", "1", "--scale", "4", *SHORT[4:]]
    code, _, err = run(recipe_of("super_resolution"), [*flags, "--out", tmp_path / "run"], capsys)
    assert code == 0, err
    assert load_predictor(tmp_path / "run").config.image_size == (32, 32)
    rows = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["07.png"]
    code, _, err = run(recipe_of("restoration"), ["--data", folder, *SHORT, "--out", tmp_path / "other"], capsys)
    assert code == 0, err
    assert (tmp_path / "other" / "skipped.jsonl").read_text() == ""
