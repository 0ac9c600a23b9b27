"""Files that vanish, shrink or become others while a run reads them: the file is named, nothing is made up."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmssl.data.images import ImageLoader, open_images
from mmssl.data.text import open_cache, open_texts, train_tokenizer
from mmssl.errors import UserError


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def take(batches: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(batches)


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def folder_instead(file: Path) -> None:
    """What root, whom no permission stops, may not read either."""
    file.unlink()
    file.mkdir()


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("gone"))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "vanishes": (Path.unlink, "cannot be opened"),
    "shrinks": (half, "cannot be decoded|ends too early|broken|shorter"),
    "is emptied": (lambda file: file.write_bytes(b""), "empty|shorter"),
    "becomes a folder": (folder_instead, "not a regular file"),
    "becomes a dangling link": (dangling, "cannot be opened"),
}


@pytest.mark.parametrize("change", [*CHANGES, "becomes another picture"])
def test_pictures(change: str, tmp_path: Path) -> None:
    for number in range(8):
        picture((20, 20), number).save(tmp_path / f"{number}.png")
    loader = ImageLoader(open_images(tmp_path), size=(16, 16), batch_size=4, seed=0, cache="none")
    batches = loader.batches(0)
    next(batches)
    spoil, reason = CHANGES.get(change, (lambda file: picture((30, 40)).save(file), "40x30 pixels now, not 20x20"))
    spoil(tmp_path / "3.png")
    with pytest.raises(UserError, match=rf"3\.png was readable before training .*({reason}).*: repair .* and resume"):
        take(batches, 4)


@pytest.mark.parametrize("change", [*CHANGES, "becomes no numbers"])
def test_recordings(change: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    from mmssl.data.audio import AudioLoader, open_audio

    tone = (np.sin(np.arange(8000) / 7) * 0.4).astype(np.float32)
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", tone, 16_000, subtype="FLOAT")
    loader = AudioLoader(open_audio(tmp_path), max_seconds=0.5, batch_seconds=1.0, seed=0, cache="none")
    batches = loader.batches(0)
    next(batches)

    def spoil_numbers(file: Path) -> None:
        poisoned = tone.copy()
        poisoned[100] = np.nan
        soundfile.write(file, poisoned, 16_000, subtype="FLOAT")

    spoil, reason = CHANGES.get(change, (spoil_numbers, r"1 samples are no numbers \(NaN or infinite\)"))
    spoil(tmp_path / "3.wav")
    with pytest.raises(UserError, match=rf"3\.wav was readable before training .*({reason}).*: repair .* and resume"):
        take(batches, 6)


@pytest.mark.parametrize("change", CHANGES)
def test_texts_between_two_readings(change: str, tmp_path: Path) -> None:
    lines = "\n".join(f"line number {number} of a text" for number in range(60))
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_text(lines, encoding="utf-8")
    source = open_texts(tmp_path / "texts", documents="line")
    CHANGES[change][0](tmp_path / "texts" / "b.txt")
    with pytest.raises(UserError, match=r"b\.txt of .* was readable before and is not now"):
        open_cache(source, train_tokenizer([lines], "wordpiece", 60), folder=tmp_path / "cache")


def test_a_tar_that_shrinks(tmp_path: Path) -> None:
    import tarfile

    picture((96, 96)).save(tmp_path / "one.png")  # more than what is read ahead of it
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        for number in range(4):
            archive.add(tmp_path / "one.png", f"{number}.png")
    loader = ImageLoader(open_images(tmp_path / "some.tar"), size=(16, 16), batch_size=4, seed=0, cache="none")
    batches = loader.batches(0)
    next(batches)
    half(tmp_path / "some.tar")
    with pytest.raises(UserError, match=r"some\.tar!.\.png was readable before training"):
        next(batches)
