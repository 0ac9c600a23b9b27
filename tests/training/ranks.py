"""Processes as torchrun would start them, forked from the tests: importing torch takes longer than what they are to do.

What torchrun itself adds, stopping and restarting, is tested with torchrun.
"""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from mmssl.data.processes import beginning, begun
from mmssl.errors import one_sentence_errors
from mmssl.training.distributed import torchrun_ranks


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(
    count: int,
    function: Callable[..., Any],
    *arguments: Any,
    logs: Path,
    seconds: float = 550.0,
    port: int | None = None,
    late: float = 0.0,
    absent: Sequence[int] = (),
    **named: Any,
) -> list[tuple[int, str, str]]:
    """``function(*arguments)`` in ``count`` processes; exit code, standard output and standard error of each.

    ``port``: of a table of keys that is there already; ``late``: seconds by which the first process is late;
    ``absent``: ranks that are never started and have no result.
    """
    function = partial(function, *arguments, **named)
    context = multiprocessing.get_context("fork")
    port = free_port() if port is None else port
    logs.mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=_rank, args=(rank, count, port, logs, function, 0.0 if rank else late))
        for rank in range(count)
    ]
    started = [process for rank, process in enumerate(processes) if rank not in absent]
    with beginning():
        for process in started:
            process.start()
    end = time.monotonic() + seconds
    for process in started:
        process.join(max(0.0, end - time.monotonic()))
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()
    return [
        (process.exitcode or 0, (logs / f"{rank}.out").read_text(), (logs / f"{rank}.err").read_text())
        for rank, process in enumerate(processes)
        if rank not in absent
    ]


def _rank(rank: int, count: int, port: int, logs: Path, function: Callable[[], Any], late: float) -> None:
    begun()
    time.sleep(late)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    code = 0
    with (logs / f"{rank}.out").open("w") as out, (logs / f"{rank}.err").open("w") as err:
        sys.stdout, sys.stderr = out, err
        try:
            with one_sentence_errors(), torchrun_ranks():
                function()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 70
        out.flush()
        err.flush()
        os._exit(code)
