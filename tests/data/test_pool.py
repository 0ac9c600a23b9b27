import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from children import fork, wait

from mmssl.data import pool
from mmssl.data.delivery import read_batches
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.errors import UserError

FORKED = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test functions are local to this process")


def square(index: int) -> int:
    if index % 10 == 3:
        raise MediaError("broken", f"number {index}")
    return index * index


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 64, 200])
def test_every_file_gets_its_result_or_its_reason(workers: int, count: int) -> None:
    results = dict(map_files(square, range(count), workers=workers, seconds=5.0))
    assert sorted(results) == list(range(count))
    for index, result in results.items():
        if index % 10 == 3:
            assert isinstance(result, MediaError)
            assert result.reason == f"number {index}"
        else:
            assert result == index * index


@FORKED
def test_a_crash_costs_one_file() -> None:
    def fragile(index: int) -> int:
        if index in (5, 70):
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    results = dict(map_files(fragile, range(100), workers=2, seconds=5.0))
    assert {index for index, result in results.items() if result != index} == {5, 70}
    assert results[5].reason == "the decoder crashed (signal 9)"


@FORKED
def test_what_hangs_beyond_the_reach_of_an_alarm_is_killed() -> None:
    def deaf(index: int) -> int:
        if index == 7:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(60)
        return index

    started = time.perf_counter()
    results = dict(map_files(deaf, range(20), workers=2, seconds=0.3))
    assert time.perf_counter() - started < 10
    assert {index for index, result in results.items() if result != index} == {7}
    assert results[7].kind == "timeout"


@FORKED
def test_what_hangs_before_its_first_file_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_BEGIN_SECONDS", 0.5)
    monkeypatch.setattr(pool, "begun", lambda: time.sleep(60))
    with pytest.raises(UserError, match=r"did not begin within 0\.5 s: is the machine overloaded\? Give fewer"):
        list(map_files(square, range(3), workers=2, seconds=5.0))


@FORKED
def test_all_halted_for_a_while_go_on(tmp_path: Path) -> None:
    def slow(index: int) -> int:
        (tmp_path / "begun").touch()
        for _ in range(100):
            time.sleep(0.01)
        return index

    def work() -> None:
        os.setpgrp()
        assert dict(map_files(slow, [0], workers=1, seconds=1.0)) == {0: 0}

    child = fork(work)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    time.sleep(0.75)
    os.killpg(child, signal.SIGSTOP)
    time.sleep(3)
    os.killpg(child, signal.SIGCONT)
    assert wait(child) == 0


@FORKED
def test_a_caller_that_takes_its_time_is_no_reason_to_kill() -> None:
    for seen, (index, result) in enumerate(map_files(square, range(30), workers=2, seconds=0.05)):
        if seen < 4:
            time.sleep(0.2)
        assert isinstance(result, MediaError) == (index % 10 == 3)


@FORKED
def test_an_abandoned_pool_leaves_no_process() -> None:
    def slow(_: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    results = map_files(slow, range(1000), workers=2, seconds=5.0)
    process = next(results)[1]
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@FORKED
def test_workers_that_cannot_start_are_no_reason_to_try_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.pool._work", lambda *_: os._exit(3))
    with pytest.raises(RuntimeError, match=r"ended before it read a file \(exit code 3\)"):
        list(map_files(square, range(4), workers=2, seconds=5.0))


@FORKED
def test_other_errors_of_a_worker_are_told_apart_from_files() -> None:
    def wrong(_: int) -> int:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(map_files(wrong, range(4), workers=2, seconds=5.0))


class Forgotten:
    """Garbage in a cycle, which only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


def forgotten_encoder(path: Path) -> None:
    """Garbage whose end waits for threads that a forked process does not have."""
    av = pytest.importorskip("av")
    thing = Forgotten()
    container = av.open(str(path), "w")
    stream = container.add_stream("mpeg4", rate=25, width=64, height=48)
    stream.codec_context.thread_count = 2
    for _ in range(4):
        for packet in stream.encode(av.VideoFrame(64, 48, "yuv420p")):
            container.mux(packet)
    thing.held = container, stream  # type: ignore[attr-defined]


def collect(index: int) -> int:
    gc.collect()
    return index


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@FORKED
@pytest.mark.usefixtures("no_collection")
def test_workers_do_not_collect_what_their_parent_forgot(tmp_path: Path) -> None:
    """Else each of them hangs in the encoder's end: ten files were lost at 40 s each."""
    threads = len(os.listdir("/proc/self/task"))
    forgotten_encoder(tmp_path / "unfinished.mp4")
    assert len(os.listdir("/proc/self/task")) > threads
    assert dict(map_files(collect, range(3), workers=1, seconds=2.0)) == {0: 0, 1: 1, 2: 2}
    assert not gc.isenabled()


class Collecting(torch.utils.data.Dataset):
    def __getitems__(self, places: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        assert gc.isenabled()
        gc.collect()
        return {"place": torch.tensor([place for _, place in places])}


@FORKED
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("no_collection")
def test_nor_do_those_that_read_for_training(tmp_path: Path) -> None:
    forgotten_encoder(tmp_path / "unfinished.mp4")
    batches = read_batches(Collecting(), [[(0, place)] for place in range(4)], workers=2, pin=False)
    assert [batch["place"].item() for batch in batches] == [0, 1, 2, 3]
