"""Worker processes killed from outside, as the kernel does when memory is short: a sentence or recovery, no hang."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import FORKED, assert_same_run, fork, wait
from PIL import Image
from scripts import ROOT, load_script

from mmssl.data.limits import MediaError
from mmssl.data.pool import _CHUNK, map_files
from mmssl.errors import UserError, one_sentence_errors
from mmssl.training.loop import Trainer

pytestmark = FORKED


def test_what_torch_says_of_it_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), one_sentence_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    said = (
        "error: DataLoader worker (pid 7) is killed by signal: Killed: is memory short? Give fewer --workers, and go on"
    )
    assert capsys.readouterr().err == f"{said} with --resume\n"


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


def test_a_worker_killed_while_it_has_nothing_to_do_is_replaced() -> None:
    results = {}
    for index, result in map_files(lambda index: index, range(2 * _CHUNK), workers=1, seconds=20.0):
        results[index] = result
        if len(results) == _CHUNK:
            (child,) = multiprocessing.active_children()
            child.kill()
            child.join()
    assert results == {index: index for index in range(2 * _CHUNK)}


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


def killed_chunk(_job: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_making_a_world_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script(ROOT / "data_prep" / "make_world.py")
    monkeypatch.setattr(script, "get_context", lambda _: get_context("fork"))
    monkeypatch.setattr(script, "write_chunk", killed_chunk)
    errors = tmp_path / "errors"
    flags = ["--out", str(tmp_path / "world"), "--count", "300", "--modalities", "images", "--workers", "2"]
    assert wait(fork(lambda: script.main(flags), errors), 20) == 2
    said = "a worker process was killed: is memory short? Give fewer --workers and start again"
    assert errors.read_text() == f"error: {said}\n"


def test_a_run_whose_worker_is_killed_ends_in_a_sentence_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    numbers = np.random.default_rng(0)
    for index in range(24):
        pixels = numbers.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    flags = ["--data", tmp_path / "photos", "--image-size", 16, "--patch-size", 4, "--batch-size", 4, "--steps", 8,
             "--validate-every", 8, "--validation-images", 4, "--log-every", 1, "--checkpoint-every", 2,
             "--preset", "pico", "--workers", 2, "--cache", "none", "--device", "cpu"]  # fmt: skip
    main = load_script(ROOT / "recipes" / "image_mae.py").main
    errors = tmp_path / "errors"

    def run(out: str, *more: str) -> tuple[int, str]:
        code = wait(fork(lambda: main([*map(str, flags), "--out", str(tmp_path / out), *more]), errors))
        return code, errors.read_text()

    main([*map(str, flags), "--out", str(tmp_path / "whole")])  # here: children need not load anything again
    with monkeypatch.context() as patched:
        step = Trainer._optimizer_step

        def killing(trainer: Trainer, *arguments: Any) -> None:
            step(trainer, *arguments)
            if trainer.step == 4:
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

        patched.setattr(Trainer, "_optimizer_step", killing)
        code, said = run("killed")
    assert code == 2
    cause = r"\(pid \d+\) is killed by signal: Killed|\(pid\(s\) \d+\) exited unexpectedly"  # what torch notices first
    remedy = r"is memory short\? Give fewer --workers, and go on with --resume"
    assert re.fullmatch(rf"error: DataLoader worker ({cause}): {remedy}\n", said)
    assert run("killed", "--resume") == (0, "")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
