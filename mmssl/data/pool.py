"""Apply a function to every file, in several processes that can be killed: no file can hang or crash the run.

A worker that says nothing for longer than the time limit allows, or that dies (a crash inside a C decoder, the kernel's
out-of-memory killer), costs exactly the file it was working on: the file fails with the reason, a new worker goes on
with the rest. With ``workers=0`` everything runs in this process, and only what SIGALRM can interrupt is limited.
"""

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from mmssl.data.limits import ImageError

T = TypeVar("T")
# fork shares what the parent has loaded; elsewhere it is not available or not safe
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_PATIENCE = 2.0
"""A worker is killed after this multiple of the time limit: its own alarm should have rung long before."""
_CHUNK = 64


def map_files(
    function: Callable[[int], T], indices: Sequence[int], *, workers: int, seconds: float
) -> Iterator[tuple[int, T | ImageError]]:
    """Yield (index, result) for every index, in no particular order; an ImageError stands for its result.

    Any other error of the function is raised here, as it would be in a plain loop.

    Args:
        function: gives the result for an index or raises ImageError. Called in the workers; picklable where processes
            are spawned.
        indices: what to apply it to.
        workers: number of processes; 0 works in this one.
        seconds: the time one call may take by its own account.
    """
    if workers < 1:
        for index in indices:
            yield index, _attempt(function, index)
        return
    chunks = [list(indices[start : start + _CHUNK]) for start in range(0, len(indices), _CHUNK)]
    chunks.reverse()
    running: dict[Connection, _Worker] = {}
    try:
        for _ in range(min(workers, len(chunks))):
            worker = _start(function, chunks.pop())
            running[worker.pipe] = worker
        while running:
            ready = wait(list(running), timeout=0.5)
            for pipe in ready:
                worker = running[pipe]  # type: ignore[index]
                yield from _receive(worker)
                if not worker.todo or not worker.alive:
                    del running[worker.pipe]
                    successor = _next(worker, function, chunks)
                    if successor is not None:
                        running[successor.pipe] = successor
            now = time.monotonic()
            for worker in [w for w in running.values() if now - w.heard > _PATIENCE * seconds and not w.pipe.poll()]:
                worker.process.kill()
                worker.verdict = ImageError("timeout", f"decoding took longer than {seconds:g} s and had to be killed")
    finally:
        for worker in running.values():
            worker.process.kill()
            worker.process.join()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    todo: list[int]
    heard: float = field(default_factory=time.monotonic)
    alive: bool = True
    verdict: ImageError | None = None
    """Why the file it is at will fail if it dies now; None when it dies of itself."""


@dataclass
class _Raised:
    """Any error but an ImageError: not a file's fault, so it goes on to the caller."""

    error: Exception


def _start(function: Callable[[int], Any], todo: list[int]) -> _Worker:
    context = multiprocessing.get_context(START_METHOD)
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    ours.send(todo)
    return _Worker(process, ours, todo)


def _receive(worker: _Worker) -> Iterator[tuple[int, Any]]:
    """One message of a worker: a result, or its end, which costs the file it was at."""
    try:
        index, result = worker.pipe.recv()
    except (EOFError, OSError):
        worker.alive = False
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if worker.todo:
            yield worker.todo.pop(0), worker.verdict or ImageError("broken", f"the decoder crashed ({how})")
        return
    worker.heard = time.monotonic()
    worker.todo.remove(index)
    if isinstance(result, _Raised):
        raise result.error
    yield index, result


def _next(worker: _Worker, function: Callable[[int], Any], chunks: list[list[int]]) -> _Worker | None:
    """Give a worker that is done its next chunk, or replace one that died."""
    todo = worker.todo or (chunks.pop() if chunks else [])
    if not worker.alive:
        worker.pipe.close()
        return _start(function, todo) if todo else None
    worker.pipe.send(todo)  # an empty list ends it
    if not todo:
        worker.process.join()
        worker.pipe.close()
        return None
    worker.todo, worker.heard = todo, time.monotonic()
    return worker


def _attempt(function: Callable[[int], T], index: int) -> T | ImageError:
    try:
        return function(index)
    except ImageError as error:
        return error


def _work(function: Callable[[int], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    while todo := pipe.recv():
        for index in todo:
            try:
                result = _attempt(function, index)
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                result = _Raised(error)
            pipe.send((index, result))
