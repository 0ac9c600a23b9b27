"""Two processes that would write one run folder: the second is refused, also while the first's workers outlive it."""

import os
import signal
import time
from pathlib import Path

import pytest
from forked import FORKED, fit, fork, run, wait
from runs import pictures

from mmssl.errors import UserError
from mmssl.training.lock import Lock
from mmssl.training.loop import Trainer

pytestmark = FORKED


def started(out: Path) -> None:
    until = time.monotonic() + 60
    while not (out / "journal.jsonl").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def waits(trainer: Trainer) -> None:
    """Holds the run in the middle of a step, for as long as the test takes."""
    step = trainer._optimizer_step

    def stepping(*arguments) -> None:
        if trainer.step == 5:
            time.sleep(600)
        step(*arguments)

    trainer._optimizer_step = stepping  # type: ignore[method-assign]


def test_the_second_process_is_refused_and_the_lock_dies_with_the_first(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = fork(fit(pictures, out, waits), tmp_path / "first.errors")
    try:
        started(out)
        before = (out / "config.json").read_bytes()
        code, said = run(pictures, out)
        assert code == 2
        assert f"is being written by another process (process {first} on" in said
        assert len(said.splitlines()) == 1
        # also from where nobody asks for --resume, before there is a checkpoint
        with pytest.raises(UserError, match=r"already holds a run|another process"):
            pictures(out, False, seed=1)
        assert (out / "config.json").read_bytes() == before
    finally:
        os.kill(first, signal.SIGKILL)
        wait(first)
    assert run(pictures, out)[0] == 0


def test_a_worker_that_outlives_its_trainer_does_not_hold_the_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = Lock(tmp_path / "run")
    worker = fork(lambda: time.sleep(600), tmp_path / "errors")
    try:
        with pytest.raises(UserError, match=f"process {os.getpid()} on"):
            Lock(tmp_path / "run")
        lock.release()
        Lock(tmp_path / "run").release()
    finally:
        os.kill(worker, signal.SIGKILL)
        wait(worker)


def test_it_is_free_after_a_run_and_after_a_refusal(tmp_path: Path) -> None:
    trainer, checkpoint = pictures(tmp_path / "run", False, steps=2)
    trainer.fit(checkpoint)
    Lock(tmp_path / "run").release()
    with pytest.raises(UserError, match="another task") as caught:
        pictures(tmp_path / "run", True, steps=2, seed=3)
    Lock(tmp_path / "run").release()
    assert caught


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """A stranger's run folder must not make us write where its lock points to."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"\.lock cannot be opened .*: remove it, or choose another --out"):
        Lock(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "mine"
