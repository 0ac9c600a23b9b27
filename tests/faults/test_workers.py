"""Worker processes killed from outside, as the kernel does when memory is short: a sentence or recovery, no hang."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from forked import FORKED, fork, wait
from PIL import Image

from mmssl.data.images import ImageLoader, open_images
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.errors import UserError

pytestmark = FORKED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(data / f"{number:02d}.png")
    return data


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    soundfile = pytest.importorskip("soundfile")
    data = tmp_path_factory.mktemp("recordings")
    for number in range(8):
        sound = np.sin(np.arange(8000) * (0.05 + 0.01 * number)) * 0.3
        soundfile.write(data / f"{number}.wav", sound, 16_000)
    return data


def killing_a_worker(batches: Iterator[object]) -> None:
    """Take a batch, kill the workers, and go on until somebody says so."""
    next(batches)
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        os.kill(worker.pid or 0, signal.SIGKILL)
    for _ in range(200):
        next(batches)
    raise AssertionError("nobody noticed")


@pytest.mark.parametrize("medium", ["pictures", "recordings"])
def test_a_worker_of_a_loader(medium: str, folder: Path, recordings: Path, tmp_path: Path) -> None:
    def work() -> None:
        if medium == "pictures":
            source = open_images(folder, split="train")
            loader = ImageLoader(source, size=(16, 16), batch_size=4, seed=0, workers=1, cache="none")
        else:
            from mmssl.data.audio import AudioLoader, open_audio

            loader = AudioLoader(
                open_audio(recordings, split="train"),
                max_seconds=0.4,
                batch_seconds=1.0,
                seed=0,
                workers=1,
                cache="none",
            )
        killing_a_worker(loader.batches(0))

    code = wait(fork(work, tmp_path / "errors"), 60)
    said = (tmp_path / "errors").read_text()
    assert code == 2, said
    assert len(said.splitlines()) == 1
    assert said.startswith("error: DataLoader worker (pid")
    assert "is memory short? Give fewer --workers, and go on with --resume" in said


def outside_killer(alive: Callable[[], list[int]]) -> threading.Thread:
    """Kills the first worker there is, once."""

    def kill() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for pid in alive():
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_worker_of_the_pool_is_replaced_and_its_file_tried_again() -> None:
    def slow(index: int) -> int:
        time.sleep(0.05)
        return index

    killer = outside_killer(lambda: [child.pid for child in multiprocessing.active_children() if child.pid])
    results = dict(map_files(slow, range(12), workers=1, seconds=20.0))
    killer.join()
    assert results == {index: index for index in range(12)}


def test_a_file_at_which_workers_die_every_time_is_the_files_fault() -> None:
    def deadly(index: int) -> int:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    results = dict(map_files(deadly, range(8), workers=2, seconds=20.0))
    assert isinstance(results[5], MediaError)
    assert results[5].reason == "the decoder crashed (signal 9)"
    assert [results[index] for index in range(8) if index != 5] == [0, 1, 2, 3, 4, 6, 7]


def test_workers_killed_before_they_read_anything_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.pool._work", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"worker process was killed \(signal 9\) twice: is memory short\?"):
        list(map_files(lambda index: index, range(4), workers=1, seconds=5.0))


def test_decoding_videos_goes_on_without_the_worker_that_was_killed(tmp_path: Path) -> None:
    pytest.importorskip("av")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data" / "video"))
    from video_files import plain

    from mmssl.data.video import ClipSettings, open_clips

    for number in range(3):
        plain(tmp_path / "videos" / f"{number}.mkv", seconds=0.4)
    killer = outside_killer(lambda: [child.pid for child in multiprocessing.active_children() if child.pid])
    source = open_clips(tmp_path / "videos", settings=ClipSettings(size=(8, 8)), cache=tmp_path / "clips", workers=1)
    killer.join()
    assert not source.failures
    assert source.frames.tolist() == [10, 10, 10]
