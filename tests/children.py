"""Forked children: they need not import torch again, and never go on with the tests of their parent."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from mmssl.data.processes import beginning, begun


def fork(work: Callable[[], object], errors: Path | None = None) -> int:
    """Start ``work`` in a child; returns its pid. The exit code is that of a SystemExit, 0, or 70 after a traceback.

    ``errors``: the file that gets its standard error; its standard output is dropped then.
    """
    with beginning():
        pid = os.fork()
        if not pid:
            begun()
    if pid:
        return pid
    code = 70
    try:
        if errors is not None:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait(pid: int, seconds: float = 120) -> int:
    """Exit code of a child, negative for a signal. One that hangs is killed and fails the test."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"the child did not end within {seconds} s")
