"""A disk that is full, for real: a file system of our own with too little room. What was there before stays whole.

It takes root and a system that lets us mount one; elsewhere these tests are skipped, and tests/training/test_loop.py
has a limit on the size of files instead.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import FORKED, assert_same_run, run
from runs import SAVE, pictures

from mmssl.data.text import open_cache, open_texts, train_tokenizer
from mmssl.errors import UserError
from mmssl.predictors import load_predictor
from mmssl.training.journal import read_journal
from mmssl.training.loop import Trainer

pytestmark = FORKED


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root and mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode(errors='replace')}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes."""
    room = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"\0" * max(0, room - leave))
    return disk / "filler"


def full_when(step: int, disk: Path, leave: int):
    """Fills the disk when the trainer is about to save at ``step``."""

    def hook(trainer: Trainer) -> None:
        save = trainer.save

        def filling() -> None:
            if trainer.step == step:
                fill(disk, leave)
            save()

        trainer.save = filling  # type: ignore[method-assign]

    return hook


@pytest.mark.parametrize("leave", [0, 20_000, 60_000])
def test_saving_a_checkpoint(disk: Path, whole: Path, leave: int) -> None:
    out = disk / "run"
    code, said = run(pictures, out, full_when(2 * SAVE, disk, leave))
    assert code == 2
    assert len(said.splitlines()) == 1
    assert f"{out}/checkpoints has no room for the checkpoint of step {2 * SAVE}, which takes 0." in said
    assert "MB" in said
    assert f"the checkpoint of step {SAVE} is whole: make room and add --resume" in said
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["latest", f"step-{SAVE:08d}"]
    load_predictor(out)
    (disk / "filler").unlink()
    code, said = run(pictures, out)
    assert code == 0, said
    assert_same_run(whole, out)


def test_writing_the_model(disk: Path, whole: Path) -> None:
    """The checkpoint still fits and model/ does not: the model before stays whole."""
    out = disk / "run"

    def hook(trainer: Trainer) -> None:
        save = trainer.predictor.save

        def filling(folder: Path, *weights: object) -> None:
            if trainer.step == 2 * SAVE:
                fill(disk, 4096)
            save(folder, *weights)

        trainer.predictor.save = filling  # type: ignore[method-assign]

    code, said = run(pictures, out, hook)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert f"No space left on device ({out}/model/model.safetensors): free some space" in said
    load_predictor(out)
    assert not list((out / "model").glob(".*"))
    (disk / "filler").unlink()
    assert run(pictures, out)[0] == 0
    assert_same_run(whole, out)


def test_writing_the_journal(disk: Path, whole: Path) -> None:
    out = disk / "run"

    def hook(trainer: Trainer) -> None:
        step = trainer._optimizer_step

        def filling(*arguments) -> None:
            step(*arguments)
            if trainer.step == 5:
                fill(disk, 0)

        trainer._optimizer_step = filling  # type: ignore[method-assign]
        trainer.on_validate = None

    code, said = run(pictures, out, _padded(hook))
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "No space left on device" in said
    assert "journal.jsonl" in said
    assert [entry["step"] for entry in read_journal(out / "journal.jsonl")] == [2, 4]
    (disk / "filler").unlink()
    assert run(pictures, out)[0] == 0
    steps = [entry["step"] for entry in read_journal(out / "journal.jsonl")]
    assert steps == [entry["step"] for entry in read_journal(whole / "journal.jsonl")]


def _padded(hook):
    """Lines of the journal are longer than a page, so that each needs room of its own."""

    def padding(trainer: Trainer) -> None:
        hook(trainer)
        from mmssl.training import journal

        write = journal.Journal.write
        journal.Journal.write = lambda self, entry: write(self, {**entry, "note": "x" * 5000})  # type: ignore[method-assign]

    return padding


def test_a_new_run_and_its_first_files(disk: Path) -> None:
    fill(disk, 0)
    code, said = run(pictures, disk / "run")
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "No space left on device" in said


def test_caches(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(f"a line with number {n}" for n in range(3000)), encoding="utf-8")
    source = open_texts(tmp_path / "lines.txt", documents="line")
    tokenizer = train_tokenizer(["a line with number 0123456789"], "wordpiece", 40)
    filler = fill(disk, 8192)
    with pytest.raises(UserError, match=r"disk.*, where tokens are kept, .* the disk is full; free some space or set"):
        open_cache(source, tokenizer, folder=disk)
    assert [path.name for path in disk.iterdir()] == ["filler"]
    filler.unlink()
    assert len(open_cache(source, tokenizer, folder=disk)) == len(source)


def test_clips(disk: Path) -> None:
    import numpy as np

    from mmssl.data.video.clip import Clip, ClipSettings, Streams
    from mmssl.data.video.store import ClipStore

    settings = ClipSettings(size=(16, 16))
    rng = np.random.default_rng(0)
    streams = Streams("MP4", 16, 16, 0, 25.0, 100, 0.0, 4.0, 16_000, 1, 0.0, 4.0)
    clip = Clip(
        rng.integers(0, 256, (100, 1, 16, 16), dtype=np.uint8), rng.integers(-9, 9, 64_000, dtype=np.int16),
        np.arange(100) / 25, 0.0, settings, "a.mp4", streams,
    )  # fmt: skip
    store = ClipStore(disk / "clips", settings)
    store.add("one", clip)
    filler = fill(disk, 50_000)
    with pytest.raises(UserError, match=r"clips, where clips are kept: the disk is full; free some space"):
        store.add("two", clip)
    assert np.array_equal(ClipStore(disk / "clips").clip("one").audio, clip.audio)
    filler.unlink()
    again = ClipStore(disk / "clips", settings)
    again.add("two", clip)
    assert np.array_equal(ClipStore(disk / "clips").clip("two").video, clip.video)
