"""Killed at any moment and resumed, a run ends as one that nobody touched: same weights, journal, pictures, to the bit.

``MMSSL_KILLS=200`` kills more often (``make soak``).
"""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from forked import FORKED, assert_same_run, fit, fork, kill_after, run, wait
from runs import SAVE, STEPS, VALIDATE, pictures, texts

from mmssl.errors import INTERRUPTED
from mmssl.training import checkpoint, journal, loop
from mmssl.training.checkpoint import Checkpoints

pytestmark = FORKED
KILLS = int(os.environ.get("MMSSL_KILLS", "20"))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def processor_seconds(make, out: Path) -> float:
    """Of an undisturbed run, which the others are compared with."""
    before = os.times()
    code, errors = run(make, out)
    assert code == 0, errors
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_killed_at_random_moments(kind: str, tmp_path: Path) -> None:
    make = pictures if kind == "pictures" else texts(tmp_path)
    whole = processor_seconds(make, tmp_path / "whole")
    moments = random.Random(kind)
    kills, runs, resumed = 0, 0, False
    share = KILLS - KILLS // 2 if kind == "pictures" else KILLS // 2
    while kills < share or resumed:
        out = tmp_path / f"killed-{runs}"
        errors = tmp_path / "errors"
        pid = fork(fit(make, out), errors)
        code = wait(pid) if kills >= share else kill_after(pid, moments.uniform(0, whole))
        assert code in (0, -signal.SIGKILL), errors.read_text()
        kills += code != 0
        resumed = code != 0
        if code == 0:
            assert_same_run(tmp_path / "whole", out)
            shutil.rmtree(out)
            runs += 1


def in_the_third_file(trainer: loop.Trainer) -> None:
    """Within a checkpoint, with two of its files written."""
    digest, seen = checkpoint._digest, []

    def third(file: Path) -> str:
        seen.append(file)
        if trainer.step == 2 * SAVE and len(seen) % 3 == 0:
            die()
        return digest(file)

    checkpoint._digest = third


def _around_replace(name: str, before: bool, step: int):
    def hook(trainer: loop.Trainer) -> None:
        replace = os.replace

        def killing(source, target) -> None:
            mine = Path(target).name == name and trainer.step == step
            if mine and before:
                die()
            replace(source, target)
            if mine:
                die()

        os.replace = killing

    return hook


def while_an_old_one_is_deleted(trainer: loop.Trainer) -> None:
    rmtree = shutil.rmtree

    def half(path, **options) -> None:
        path = Path(path)
        if trainer.step == 3 * SAVE and path.name == f"step-{SAVE:08d}":
            (path / "model.safetensors").unlink()
            die()
        rmtree(path, **options)

    shutil.rmtree = half


def within_a_line_of_the_journal(_: loop.Trainer) -> None:
    write = journal.Journal.write

    def half(self: journal.Journal, entry: dict) -> None:
        if entry["step"] == 4:
            self.stream.write(b'{"step": 4, "lo')
            die()
        write(self, entry)

    journal.Journal.write = half  # type: ignore[method-assign]


def within_validation(trainer: loop.Trainer) -> None:
    frozen = trainer.validation

    def cut():
        yield from frozen()
        if trainer.step == VALIDATE:
            die()

    trainer.validation = cut


def within_a_picture(trainer: loop.Trainer) -> None:
    from PIL import Image

    save = Image.Image.save

    def half(self: Image.Image, file, *rest, **options) -> None:
        save(self, file, *rest, **options)
        if trainer.step == VALIDATE:
            os.truncate(file, 100)
            die()

    Image.Image.save = half  # type: ignore[method-assign]


def between_the_last_checkpoint_and_its_model(_: loop.Trainer) -> None:
    save = Checkpoints.save

    def then_die(self: Checkpoints, step: int, *rest) -> Path:
        found = save(self, step, *rest)
        if step == STEPS:
            die()
        return found

    Checkpoints.save = then_die  # type: ignore[method-assign]


PLACES = {
    "third file of a checkpoint": in_the_third_file,
    "before the rename of a checkpoint": _around_replace(f"step-{2 * SAVE:08d}", True, 2 * SAVE),
    "after the rename of a checkpoint": _around_replace(f"step-{2 * SAVE:08d}", False, 2 * SAVE),
    "before the pointer": _around_replace("latest", True, 2 * SAVE),
    "after the pointer": _around_replace("latest", False, 2 * SAVE),
    "before the model": _around_replace("model.safetensors", True, SAVE),
    "before the model's config": _around_replace("config.json", True, SAVE),
    "an old checkpoint": while_an_old_one_is_deleted,
    "a line of the journal": within_a_line_of_the_journal,
    "a validation": within_validation,
    "a picture": within_a_picture,
    "the last save": between_the_last_checkpoint_and_its_model,
}


def test_killed_where_it_hurts(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert run(pictures, whole)[0] == 0
    for number, (place, hook) in enumerate(PLACES.items()):
        out = tmp_path / f"killed-{number}"
        code, errors = run(pictures, out, hook)
        assert code == -signal.SIGKILL, f"{place}: {errors}"
        code, errors = run(pictures, out)
        assert code == 0, f"{place}: {errors}"
        assert_same_run(whole, out)
        assert not list((out / "checkpoints").glob(".step*")), place


def test_killed_while_the_journal_is_cut_back(tmp_path: Path) -> None:
    """Resuming rewrites the journal: a kill before the rename must leave the old one."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert run(pictures, whole)[0] == 0
    assert run(pictures, out, _around_replace("latest", True, 2 * SAVE))[0] == -signal.SIGKILL
    for before in (True, False):
        assert run(pictures, out, _around_replace("journal.jsonl", before, SAVE))[0] == -signal.SIGKILL
    assert run(pictures, out)[0] == 0
    assert_same_run(whole, out)


def test_a_preempted_run_saves_and_goes_on(tmp_path: Path) -> None:
    """SIGTERM, as clusters send it: saved at the end of the step, with the exit code of an interrupted run."""
    whole, out = tmp_path / "whole", tmp_path / "preempted"
    assert run(pictures, whole)[0] == 0

    def stop_at_seven(trainer: loop.Trainer) -> None:
        step = trainer._optimizer_step

        def stepping(*arguments) -> None:
            if trainer.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            step(*arguments)

        trainer._optimizer_step = stepping  # type: ignore[method-assign]

    code, errors = run(pictures, out, stop_at_seven)
    assert code == INTERRUPTED, errors
    assert (out / "checkpoints" / "latest").read_text().strip() == "step-00000007"
    assert run(pictures, out)[0] == 0
    assert_same_run(whole, out)
