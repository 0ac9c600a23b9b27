"""Worker processes killed from outside, as the kernel does when memory is short: a sentence or recovery, no hang."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import FORKED

from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.errors import UserError, one_sentence_errors

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
