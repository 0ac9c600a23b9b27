"""What goes wrong in one of several processes ends all of them, soon, with one sentence."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from ranks import free_port, run_ranks
from tiny import DEFAULTS, Config, make_trainer, train

from mmssl.errors import UserError
from mmssl.predictors import load_predictor
from mmssl.training import distributed
from mmssl.training.config import RunConfig
from mmssl.training.distributed import agree, rank, same_everywhere, share_of_batch
from mmssl.training.journal import Journal, read_journal

SCRIPT = Path(__file__).with_name("tiny.py")


def ends(results, code: int) -> str:
    """All processes ended, none by a signal; what the one that failed said."""
    assert sorted({each for each, _, _ in results}) == sorted({1, code}), results
    said = "".join(err for _, _, err in results)
    assert "Traceback" not in said
    return said


def test_an_error_in_one_process_ends_all(tmp_path):
    def fail() -> None:
        if rank() == 1:
            raise UserError("photo.png was readable before training and is not now")
        agree([1.0])  # waits for ever

    began = time.monotonic()
    said = ends(run_ranks(3, fail, logs=tmp_path), 2)
    assert said == "error: photo.png was readable before training and is not now\n"
    assert time.monotonic() - began < 30


def test_an_error_of_all_is_said_once(tmp_path):
    def fail() -> None:
        share_of_batch(8, 1)

    said = ends(run_ranks(3, fail, logs=tmp_path), 2)
    assert said == "error: --batch-size 8 cannot be split evenly among 3 processes: choose a multiple of 3\n"


def test_one_that_fails_at_once_does_not_leave_those_behind_that_still_join(tmp_path, monkeypatch):
    """The first process keeps the table by which all meet: the others must not look for it when it has ended."""
    alarm = distributed._Alarm

    def late(*arguments):
        if rank():
            time.sleep(1)
        return alarm(*arguments)

    def fail() -> None:
        share_of_batch(8, 1)

    monkeypatch.setattr(distributed, "_Alarm", late)
    began = time.monotonic()
    assert "cannot be split evenly" in ends(run_ranks(3, fail, logs=tmp_path), 2)
    assert time.monotonic() - began < 30


def test_a_killed_process_ends_the_others(tmp_path):
    def die() -> None:
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        agree([1.0])

    results = run_ranks(2, die, logs=tmp_path)
    assert results[1][0] == -signal.SIGKILL
    assert results[0][0] == 2
    assert results[0][2].startswith("error: another process ended without a word")


def test_a_bug_keeps_its_traceback(tmp_path):
    def fail() -> None:
        if rank() == 1:
            raise ZeroDivisionError
        agree([1.0])

    results = run_ranks(2, fail, logs=tmp_path)
    assert [code for code, _, _ in results] == [1, 70]
    assert "ZeroDivisionError" in results[1][2]
    assert results[0][2] == ""


def test_different_data_is_refused(tmp_path):
    said = ends(run_ranks(2, lambda: same_everywhere("data set", f"{rank()} files"), logs=tmp_path), 2)
    assert said == "error: process 1 sees another data set than process 0 (1 files; 0 files): give all one\n"


def test_not_a_number_in_one_process_is_told_by_all(tmp_path, monkeypatch):
    write = Journal.write

    def slowly(*arguments) -> None:  # nor does the other end the one that writes
        time.sleep(0.5)
        write(*arguments)

    monkeypatch.setattr(Journal, "write", slowly)

    def poison() -> None:
        trainer, _ = make_trainer(Config(**{"out": tmp_path / "run", **DEFAULTS}))
        step = trainer._optimizer_step

        def poisoned(*arguments) -> None:
            if trainer.step == 2 and rank() == 1:
                with torch.no_grad():
                    trainer.predictor.head.bias[0] = torch.nan
            step(*arguments)

        trainer._optimizer_step = poisoned
        trainer.fit()

    said = ends(run_ranks(2, poison, logs=tmp_path), 2)
    assert said.count("error:") == 1
    assert "the loss or gradient of step 3 is not finite" in said
    assert set(re.findall(r"picture-\d+", said)) == {f"picture-{i}" for i in batch_of(3)}
    assert read_journal(tmp_path / "run" / "journal.jsonl")[-1] == {"step": 3, "loss": None}


def batch_of(step: int) -> list[int]:
    from mmssl.data.order import Order

    return Order(40, 8, 0).batch(step - 1)[0].tolist()


def test_a_signal_to_one_process_saves_once_and_ends_all(tmp_path):
    def interrupted() -> None:
        trainer, _ = make_trainer(Config(**{"out": tmp_path / "run", **DEFAULTS, "steps": 10_000}))
        step = trainer._optimizer_step

        def then_signal(*arguments) -> None:
            step(*arguments)
            if trainer.step == 3 and rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer._optimizer_step = then_signal
        assert trainer.fit() is False
        raise SystemExit(130)

    results = run_ranks(2, interrupted, logs=tmp_path)
    assert [code for code, _, _ in results] == [130, 130], results
    (folder,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    state = json.loads((folder / "state.json").read_text())
    assert 3 <= state["step"] <= 5


def test_dropout_differs_between_ranks_and_is_resumed(tmp_path):
    """Generators are set from step and rank: a run in two halves is the run in one piece."""

    def halves() -> None:
        train(tmp_path / "whole", steps=8, dropout=0.3, checkpoint_every=4, keep_checkpoints=9)
        trainer, _ = make_trainer(Config(**{"out": tmp_path / "halves", **DEFAULTS, "steps": 8, "dropout": 0.3}))
        trainer.interrupted = True  # ends after the second step
        assert trainer.fit() is False
        torch.manual_seed(99)
        train(tmp_path / "halves", steps=8, dropout=0.3, resume=True)

    assert [code for code, _, _ in run_ranks(2, halves, logs=tmp_path)] == [0, 0]
    whole, halves_ = (load_predictor(tmp_path / name).state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves_[name]) for name in whole)


COMPILED = """
import functools, sys
from pathlib import Path
import torch
import tiny
from ranks import run_ranks

folder = Path(sys.argv[1])
compile_module = torch.nn.Module.compile
torch.compile = functools.partial(torch.compile, backend="aot_eager")
torch.nn.Module.compile = lambda module: compile_module(module, backend="aot_eager")
shape = tiny.TransformerConfig
tiny.TransformerConfig = lambda **settings: shape(**settings | {"depth": 1})  # each block is compiled anew

def compiled():
    for parallel in ("ddp", "fsdp"):
        for flag in (False, True):
            tiny.train(folder / f"{parallel}-{flag}", compile=flag, parallel=parallel, dropout=0.0, steps=4)

for code, _, err in run_ranks(2, compiled, logs=folder):
    assert code == 0, err
    assert "lru_cache" not in err, err
"""


def test_torch_compile(tmp_path):
    """In a process of its own: the checks of shapes cannot be compiled."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, tmp_path], capture_output=True, text=True, timeout=500, cwd=SCRIPT.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for parallel in ("ddp", "fsdp"):
        plain, fast = (read_journal(tmp_path / f"{parallel}-{flag}" / "journal.jsonl") for flag in (False, True))
        assert [entry["loss"] for entry in fast] == pytest.approx([entry["loss"] for entry in plain], rel=1e-4)


def test_ranks_and_way_are_no_part_of_the_objective():
    from mmssl.training.config import SPEED_ONLY

    assert "parallel" in SPEED_ONLY
    assert RunConfig.parallel == "ddp"


def test_processes_that_are_started_again_do_not_wait_for_those_before(tmp_path, monkeypatch):
    """torchrun keeps one table of keys over all its starts: an address that is left there is that of nobody."""
    table = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for start in range(2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(start))
        where = {"logs": tmp_path / str(start), "port": table.port, "late": 3.0 * start, "seconds": 60.0}
        assert [code for code, _, _ in run_ranks(2, agree, [1.0], **where)] == [0, 0]


@pytest.fixture
def table(monkeypatch):
    """Kept by another process than the ranks, as torchrun does, and ranks that wait for a second to begin."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(distributed, "START", timedelta(seconds=1))
    return torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_those_that_begin_do_not_wait_for_ever_for_one_that_does_not(tmp_path, table):
    began = time.monotonic()
    results = run_ranks(4, agree, [1.0], logs=tmp_path, absent=[2], port=table.port, seconds=60.0)
    assert time.monotonic() - began < 30
    said = f"error: only 3 of 4 processes have begun within 1 s (not 2): {distributed.START_REMEDY}\n"
    assert sorted(results) == [(1, "", ""), (1, "", ""), (2, "", said)]


@pytest.mark.parametrize("absent", [0, 1])
def test_without_torchrun_they_do_not_wait_for_ever_either(tmp_path, monkeypatch, absent):
    """Process 0 keeps the table of keys itself."""
    monkeypatch.setattr(distributed, "START", timedelta(seconds=1))
    (one,) = run_ranks(2, agree, [1.0], logs=tmp_path, absent=[absent], port=(port := free_port()), seconds=60.0)
    what = "only 1 of 2 processes have begun" if absent else f"process 1 reached nobody at 127.0.0.1:{port}"
    assert one == (2, "", f"error: {what} within 1 s: {distributed.START_REMEDY}\n")


def test_once_all_have_begun_they_wait_for_longer(tmp_path, table):
    """As for a checkpoint of rank 0; over the table of keys as well as over gloo."""

    def slow() -> None:
        if rank() == 0:
            time.sleep(2.5)
        agree([1.0])
        torch.distributed.new_group(backend="gloo")

    results = run_ranks(2, slow, logs=tmp_path, port=table.port, seconds=60.0)
    assert [code for code, _, _ in results] == [0, 0], results


def test_torchrun_restarts_a_killed_rank_which_goes_on_unasked(tmp_path):
    """One rank is killed after a checkpoint; what torchrun starts again ends as a run that nobody disturbed."""
    flags = ["--out", str(tmp_path / "run"), "--steps", "12", "--kill-at", "7"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "--max-restarts", "1", "--monitor-interval", "0.1", SCRIPT, *flags],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started\n") == 2

    def undisturbed() -> None:
        train(tmp_path / "whole")

    assert [code for code, _, _ in run_ranks(2, undisturbed, logs=tmp_path)] == [0, 0]
    one, other = (read_journal(tmp_path / name / "journal.jsonl") for name in ("run", "whole"))
    assert [entry["loss"] for entry in one] == [entry["loss"] for entry in other]
    one, other = (load_predictor(tmp_path / name).state_dict() for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
