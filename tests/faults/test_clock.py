"""The clock of the machine jumps by an hour, back and forth, at every look: nothing depends on it."""

import itertools
import time
from pathlib import Path

import pytest
from runs import STEPS, pictures

from mmssl.training.journal import read_journal

REAL = time.time


@pytest.fixture
def _jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = itertools.cycle((0, 3600, -3600, 7200))
    monkeypatch.setattr(time, "time", lambda: REAL() + next(jumps))


@pytest.mark.usefixtures("_jumping")
def test_a_run_under_a_jumping_clock(tmp_path: Path) -> None:
    # checkpoints by minutes, none due within the seconds that this takes
    trainer, checkpoint = pictures(tmp_path / "run", False, checkpoint_every=10_000, checkpoint_minutes=30.0)
    began = time.monotonic()
    trainer.fit(checkpoint)
    took = time.monotonic() - began
    assert trainer.run.checkpoints.steps() == [STEPS]
    entries = read_journal(tmp_path / "run" / "journal.jsonl")
    seconds = [entry["seconds"] for entry in entries]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= took
    assert all(entry["samples_per_second"] > 0 and 0 <= entry["data_wait"] <= 1 for entry in entries)


@pytest.mark.usefixtures("_jumping")
def test_checkpoints_by_minutes_come_by_the_time_that_passed(tmp_path: Path) -> None:
    trainer, checkpoint = pictures(
        tmp_path / "run", False, checkpoint_every=10_000, checkpoint_minutes=1e-9, keep_checkpoints=99
    )
    trainer.fit(checkpoint)
    assert trainer.run.checkpoints.steps() == list(range(1, STEPS + 1))
    assert trainer.run.checkpoints.latest() == trainer.run.checkpoints.path(STEPS)


def test_times_of_files_do_not_order_checkpoints(tmp_path: Path) -> None:
    """What was written last by a clock that was set back is still the newest by its step."""
    import os

    trainer, checkpoint = pictures(tmp_path / "run", False)
    trainer.fit(checkpoint)
    for age, step in enumerate(reversed(trainer.run.checkpoints.steps())):
        os.utime(trainer.run.checkpoints.path(step), (1e9 - 3600 * age, 1e9 + 3600 * age))
    (tmp_path / "run" / "checkpoints" / "latest").unlink()
    assert trainer.run.checkpoints.latest() == trainer.run.checkpoints.path(STEPS)


@pytest.mark.usefixtures("_jumping")
def test_the_ledger_of_a_long_command_counts_time_that_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "recipes"))
    from budget import Ledger

    ledger = Ledger(tmp_path / "ledger.json", {"minutes": 1})
    ledger.save()
    again = Ledger(tmp_path / "ledger.json", {"minutes": 1})
    assert 0 <= ledger.seconds <= again.seconds + 1 < 60
