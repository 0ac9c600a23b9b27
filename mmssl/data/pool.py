"""Apply a function to every file, in several processes that can be killed: no file can hang or crash the run.

A worker that says nothing for longer than the time limit allows, or that dies (a crash inside a C decoder), costs
exactly the file it was working on: the file fails with the reason, a new worker goes on with the rest. One that was
killed from outside, as the kernel does when memory is short, costs nothing at first: its file is tried once more. With
``workers=0`` everything runs in this process, and only what SIGALRM can interrupt is limited.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from mmssl.data.limits import MediaError
from mmssl.data.processes import START_METHOD, Method, beginning, begun
from mmssl.errors import UserError

T = TypeVar("T")
_PATIENCE = 2.0
"""A worker is killed after this multiple of the time limit: its own alarm should have rung long before."""
_BEGIN_SECONDS = 120.0
"""A worker at no file for so long has hung before its first: a spawned one loads its modules, which takes seconds."""
_TURN_SECONDS = 1.0
"""Two looks at the workers are half a second apart or not much more."""
_CHUNK = 64
_MESSAGE_SECONDS = 0.05


def map_files(
    function: Callable[[int], T],
    indices: Sequence[int],
    *,
    workers: int,
    seconds: float,
    method: Method = START_METHOD,
) -> Iterator[tuple[int, T | MediaError]]:
    """Yield (index, result) for every index, in no particular order; a MediaError stands for its result.

    Any other error of the function is raised here, as it would be in a plain loop.

    Args:
        function: gives the result for an index or raises MediaError. Called in the workers; picklable where processes
            are spawned.
        indices: what to apply it to.
        workers: number of processes; 0 works in this one.
        seconds: the time one call may take by its own account.
        method: how processes start; "spawn" where what the parent has loaded must not be shared, such as decoders with
            threads of their own.
    """
    if workers < 1:
        for index in indices:
            yield index, _attempt(function, index)
        return
    chunks = [list(indices[start : start + _CHUNK]) for start in range(0, len(indices), _CHUNK)]
    chunks.reverse()
    running: dict[Connection, _Worker] = {}
    killed: set[int] = set()
    try:
        for _ in range(min(workers, len(chunks))):
            worker = _start(function, chunks.pop(), method)
            running[worker.pipe] = worker
        looked = time.monotonic()
        while running:
            ready = wait(list(running), timeout=0.5)
            for pipe in ready:
                worker = running[pipe]  # type: ignore[index]
                yield from _receive(worker, killed)
                if not worker.todo or not worker.alive:
                    del running[worker.pipe]
                    successor = _next(worker, function, chunks, method)
                    if successor is not None:
                        running[successor.pipe] = successor
            # what the caller took, or all were halted for (Ctrl-Z), is not the workers' doing
            away, looked = max(0.0, time.monotonic() - looked - _TURN_SECONDS), time.monotonic()
            for worker in running.values():
                verdict = worker.overdue(seconds, away)
                if verdict is not None and not worker.pipe.poll():
                    worker.verdict = verdict
                    worker.process.kill()
    finally:
        for worker in running.values():
            worker.process.kill()
            worker.process.join()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    place: Any
    """Shared integer: the index it is working on, -1 when none."""
    todo: list[int]
    seen: tuple[int, float] | None = None
    """The index it was found at (-1 when none) since its last message, and since when."""
    alive: bool = True
    verdict: MediaError | None = None
    """Why the file it is at will fail if it dies now; None when it dies of itself."""

    def overdue(self, seconds: float, away: float) -> MediaError | None:
        """Why it must be killed: it has been at one file for too long, or at none before its first.

        ``away``: seconds since the last look that do not count.
        """
        now, place = time.monotonic(), self.place.value
        if self.seen is None or place != self.seen[0]:
            self.seen = (place, now)
        else:
            self.seen = (place, self.seen[1] + away)
        if now - self.seen[1] <= (_BEGIN_SECONDS if place < 0 else _PATIENCE * seconds):
            return None
        if place < 0:
            return MediaError("timeout", f"a worker process did not begin within {_BEGIN_SECONDS:g} s")
        return MediaError("timeout", f"decoding took longer than {seconds:g} s and had to be killed")


@dataclass
class _Raised:
    """Any error but a MediaError: not a file's fault, so it goes on to the caller."""

    error: Exception


def _start(function: Callable[[int], Any], todo: list[int], method: Method) -> _Worker:
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    place = context.RawValue("q", -1)
    process = context.Process(target=_work, args=(function, theirs, place), daemon=True)
    with beginning():
        process.start()
    theirs.close()
    with suppress(OSError):  # killed already: found when its end is received
        ours.send(todo)
    return _Worker(process, ours, place, todo)


def _receive(worker: _Worker, killed: set[int]) -> Iterator[tuple[int, Any]]:
    """One message of a worker: some results, or its end, which costs the file it was at.

    ``killed``: files at which a worker was killed from outside; the second time is the file's fault.
    """
    try:
        results = worker.pipe.recv()
    except (EOFError, OSError):
        worker.alive = False
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        culprit = worker.place.value
        if code == -getattr(signal, "SIGKILL", 9) and worker.verdict is None and culprit not in killed:
            killed.add(culprit)
            return
        if culprit < 0 and worker.verdict is not None:
            raise UserError(f"{worker.verdict.reason}: is the machine overloaded? Give fewer --workers, or 0") from None
        if culprit < 0 and code < 0:
            raise UserError(
                f"a worker process was killed ({how}) twice: is memory short? Give fewer --workers"
            ) from None
        if culprit < 0:
            raise RuntimeError(f"a worker process ended before it read a file ({how})") from None
        worker.todo.remove(culprit)  # what else it had done and not sent will be done again
        yield culprit, worker.verdict or MediaError("broken", f"the decoder crashed ({how})")
        return
    worker.seen = None
    for index, result in results:
        worker.todo.remove(index)
        if isinstance(result, _Raised):
            raise result.error
        yield index, result


def _next(worker: _Worker, function: Callable[[int], Any], chunks: list[list[int]], method: Method) -> _Worker | None:
    """Give a worker that is done its next chunk, or replace one that died."""
    todo = worker.todo or (chunks.pop() if chunks else [])
    if not worker.alive:
        worker.pipe.close()
        return _start(function, todo, method) if todo else None
    with suppress(OSError):  # killed while it had nothing to do: found when its end is received
        worker.pipe.send(todo)  # an empty list ends it
    if not todo:
        worker.process.join()
        worker.pipe.close()
        return None
    worker.todo = todo
    return worker


def _attempt(function: Callable[[int], T], index: int) -> T | MediaError:
    try:
        return function(index)
    except MediaError as error:
        return error


def _work(function: Callable[[int], Any], pipe: Connection, place: Any) -> None:
    begun()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _work_alone()
    while todo := pipe.recv():
        results: list[tuple[int, Any]] = []
        sent = time.monotonic()
        for index in todo:
            place.value = index
            try:
                results.append((index, _attempt(function, index)))
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                results.append((index, _Raised(error)))
            # small files together: a message for each would cost as much as decoding it
            if time.monotonic() - sent > _MESSAGE_SECONDS:
                pipe.send(results)
                results, sent = [], time.monotonic()
        place.value = -1
        if results:
            pipe.send(results)


def _work_alone() -> None:
    """One thread for torch, since there is a worker for every core. It is not loaded for that, which takes seconds."""
    os.environ["OMP_NUM_THREADS"] = "1"  # should it be loaded later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
