"""Runs in forked children, which can be killed at any moment."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import children
import pytest
import torch
from children import wait

from mmssl.errors import INTERRUPTED, one_sentence_errors
from mmssl.predictors import load_predictor
from mmssl.training.journal import read_journal
from mmssl.training.loop import Trainer

FORKED = pytest.mark.skipif(
    not sys.platform.startswith("linux") or torch.cuda.is_available(),
    reason="autograd cannot be forked once a device has threads; processor time of others is read from /proc",
)
TIMING = {"samples_per_second", "data_wait", "seconds", "validation_seconds", "findings"}
"""What a clock wrote: a loader may be found slow in one run only."""
Make = Callable[[Path, bool], tuple[Trainer, Path | None]]
"""(out, resume) -> a trainer and the checkpoint to go on from."""


def fork(work: Callable[[], object], errors: Path) -> int:
    """Start ``work`` in a child that ends as a command would; its standard error goes to a file. Returns the pid."""

    def command() -> None:
        with one_sentence_errors():
            work()

    return children.fork(command, errors)


def kill_after(pid: int, cpu_seconds: float, number: int = signal.SIGKILL) -> int:
    """Send a signal when the child has had so much processor time: its moment does not depend on a busy machine."""
    clock = Path(f"/proc/{pid}/schedstat")
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if int(clock.read_text().split()[0]) >= 1e9 * cpu_seconds:
            os.kill(pid, number)
            return wait(pid)
        time.sleep(0.001)


def fit(make: Make, out: Path, hook: Callable[[Trainer], object] | None = None) -> Callable[[], None]:
    """A run as a recipe does it: resumed where there is one."""

    def work() -> None:
        # what a process that starts afresh has drawn is not what the killed one had
        torch.manual_seed(os.getpid())
        trainer, checkpoint = make(out, (out / "config.json").is_file())
        if hook:
            hook(trainer)
        if not trainer.fit(checkpoint):
            raise SystemExit(INTERRUPTED)

    return work


def run(make: Make, out: Path, hook: Callable[[Trainer], object] | None = None) -> tuple[int, str]:
    """:func:`fit` in a child, to its end: exit code and standard error."""
    with tempfile.TemporaryDirectory() as folder:  # not beside the run, whose disk may be full
        code = wait(fork(fit(make, out, hook), Path(folder) / "errors"))
        return code, (Path(folder) / "errors").read_text(errors="replace")


def assert_same_run(one: Path, other: Path) -> None:
    """Journal, weights, newest checkpoint and pictures are those of an undisturbed run, to the last bit."""
    journals = [
        [{key: value for key, value in entry.items() if key not in TIMING} for entry in read_journal(file)]
        for file in (one / "journal.jsonl", other / "journal.jsonl")
    ]
    assert journals[0] == journals[1]
    left, right = (load_predictor(run).state_dict() for run in (one, other))
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    latest = [(run / "checkpoints" / "latest").read_text() for run in (one, other)]
    assert latest[0] == latest[1]
    for name in ("model", "optimizer", "random"):
        files = [run / "checkpoints" / latest[0].strip() / f"{name}.safetensors" for run in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    reveals = [{path.name: path.read_bytes() for path in (run / "reveal").glob("*")} for run in (one, other)]
    assert reveals[0] == reveals[1]
