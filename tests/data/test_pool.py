import os
import signal
import time

import pytest

from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files

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
