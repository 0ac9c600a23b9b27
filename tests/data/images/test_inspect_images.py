import json
from pathlib import Path

import numpy as np
import pytest
from picture_files import encode, smooth, write_png

from mmssl.data.images.inspect import inspect_images, print_report


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    root = tmp_path / "mixed"
    for split, name, count in (("train", "cat", 3), ("train", "dog", 2), ("val", "dog", 1)):
        for index in range(count):
            write_png(root / split / name / f"{index}.png", smooth(40 + index, 64, seed=index))
    (root / "train/cat/grey.jpg").write_bytes(encode(smooth(30, 50)[..., 0], "JPEG"))
    (root / "train/cat/cut.jpg").write_bytes(encode(smooth(30, 50), "JPEG")[:-30])
    (root / "train/[odd] name.txt").write_text("")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_is_counted(mixed: Path, workers: int) -> None:
    report = inspect_images(mixed, workers=workers)
    assert json.loads(json.dumps(report)) == report
    assert (report["images"], report["readable"]) == (8, 7)
    assert report["splits"] == {"train": 7, "val": 1}
    assert report["labels"] == {"folder": {"cat": {"train": 5}, "dog": {"train": 2, "val": 1}}}
    assert report["formats"] == {"PNG": 6, "JPEG": 1}
    assert report["modes"] == {"RGB": 6, "L": 1}
    assert (report["height"]["min"], report["height"]["median"], report["height"]["max"]) == (30, 40, 42)
    assert report["width"]["max"] == 64
    assert report["bytes"] == sum(
        p.stat().st_size for p in mixed.rglob("*.*") if p.name not in ("cut.jpg", "[odd] name.txt")
    )
    assert [(item["file"], item["kind"]) for item in report["unreadable"]] == [("train/cat/cut.jpg", "broken")]
    assert [item["file"] for item in report["not_images"]] == ["train/[odd] name.txt"]
    assert report["suggestion"] == {"image_size": 32, "patch_size": 4}


def test_mean_and_std_against_numpy(tmp_path: Path) -> None:
    """Every image weighs the same, whatever its size."""
    images = [smooth(30, 40, seed=1), smooth(60, 50, seed=2)]
    for number, image in enumerate(images):
        write_png(tmp_path / f"{number}.png", image)
    report = inspect_images(tmp_path, workers=0)
    weights = np.concatenate([np.full(image[..., 0].size, 0.5 / image[..., 0].size) for image in images])
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    mean = weights @ pixels
    assert np.allclose(report["mean"], mean, rtol=1e-12, atol=0)
    assert np.allclose(report["std"], np.sqrt(weights @ (pixels - mean) ** 2), rtol=1e-12, atol=0)


def test_the_report_is_readable(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(inspect_images(mixed, workers=0))
    text = " ".join(capsys.readouterr().out.split())
    for piece in (
        "8, of which 1 cannot be used",
        "train 7, val 1",
        "PNG 6, JPEG 1",
        "labels 'folder'",
        "train/cat/cut.jpg: the file ends too early (no end marker)",
        "train/[odd] name.txt: '.txt' is not an image extension",
        "--image-size 32 --patch-size 4 (64 patches)",
    ):
        assert piece in text


def test_a_set_without_one_readable_image_still_gets_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"nonsense")
    report = inspect_images(tmp_path, workers=0)
    assert (report["images"], report["readable"]) == (1, 0)
    print_report(report)
    assert "x.png: no picture in a known format" in capsys.readouterr().out
