"""Checkpoints that were cut, changed or lost: found by their digests, and the one before is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import assert_same_run
from runs import SAVE, STEPS, pictures

from mmssl.errors import UserError
from mmssl.training.journal import read_journal

LAST, BEFORE = f"step-{STEPS:08d}", f"step-{STEPS // SAVE * SAVE:08d}"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def not_json(file: Path) -> None:
    file.write_text('{"step": 1')


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cut": ("model.safetensors", cut),
    "a bit": ("optimizer.safetensors", flip),
    "empty": ("random.safetensors", lambda file: file.write_bytes(b"")),
    "removed": ("model.safetensors", Path.unlink),
    "no state": ("state.json", Path.unlink),
    "half a state": ("state.json", not_json),
    "another state": ("state.json", lambda file: file.write_text('{"step": 10, "sha256": {}}')),
    "brackets": ("state.json", lambda file: file.write_text("[" * 100_000)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_one_before_is_used(damage: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    name, spoil = DAMAGE[damage]
    spoil(out / "checkpoints" / LAST / name)
    trainer, checkpoint = pictures(out, True)
    torch.manual_seed(99)
    trainer.fit(checkpoint)
    said = capsys.readouterr().err
    assert f"{LAST}/{name} is cut or damaged: going back to {BEFORE}" in said
    assert f"kept as damaged-{LAST}" in said
    assert len(said.splitlines()) == 1
    assert_same_run(whole, out)
    assert (out / "checkpoints" / f"damaged-{LAST}").is_dir()


def test_the_journal_goes_back_with_it(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    flip(out / "checkpoints" / LAST / "model.safetensors")
    trainer, checkpoint = pictures(out, True)
    trainer.interrupted = True
    trainer.fit(checkpoint)
    assert trainer.step == STEPS // SAVE * SAVE
    assert max(entry["step"] for entry in read_journal(out / "journal.jsonl")) <= trainer.step


def test_where_none_is_whole_that_is_said(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    for name in (LAST, BEFORE):
        cut(out / "checkpoints" / name / "model.safetensors")
    trainer, checkpoint = pictures(out, True)
    with pytest.raises(UserError, match=rf"{LAST}/model\.safetensors is cut .* no whole checkpoint .* start the run"):
        trainer.fit(checkpoint)


def test_a_pointer_that_lies_leads_nowhere_else(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    outside = shutil.copytree(whole / "checkpoints" / LAST, tmp_path / "outside")
    flip(outside / "model.safetensors")
    for name in ("../../outside", str(outside), "step-9", "", "\0", LAST + "/../.."):
        (out / "checkpoints" / "latest").write_text(name)
        trainer, checkpoint = pictures(out, True)
        assert checkpoint == out / "checkpoints" / LAST
        trainer.run.release()
    (out / "checkpoints" / "latest").write_bytes(b"\xff\xfe\x00")
    assert trainer.run.checkpoints.latest() == out / "checkpoints" / LAST
    (out / "checkpoints" / "step-x").mkdir()
    assert trainer.run.checkpoints.steps() == [STEPS // SAVE * SAVE, STEPS]
    assert outside.is_dir()


def test_names_in_a_state_lead_nowhere_else(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "secret").write_text("not ours")
    file = out / "checkpoints" / LAST / "state.json"
    state = json.loads(file.read_text())
    state["sha256"]["../../../secret"] = "0"
    file.write_text(json.dumps(state))
    trainer, checkpoint = pictures(out, True)
    found, _ = trainer.run.checkpoints.whole(checkpoint)
    assert found.name == BEFORE


def test_one_of_another_task_is_a_sentence(whole: Path, tmp_path: Path) -> None:
    """A stranger's checkpoint, whole by its own digests, whose tensors are not what they should be."""
    from safetensors.torch import load_file, save_file

    from mmssl.training.checkpoint import _digest

    for name, change in {
        "optimizer": {"no slash": torch.zeros(2)},
        "random": {"cpu": torch.zeros(3)},
        "model": {"cls_token": torch.zeros(1)},
    }.items():
        out = shutil.copytree(whole, tmp_path / name)
        folder = out / "checkpoints" / LAST
        save_file({**load_file(folder / f"{name}.safetensors"), **change}, folder / f"{name}.safetensors")
        state = json.loads((folder / "state.json").read_text())
        state["sha256"][f"{name}.safetensors"] = _digest(folder / f"{name}.safetensors")
        (folder / "state.json").write_text(json.dumps(state))
        trainer, checkpoint = pictures(out, True)
        with pytest.raises(UserError, match="belongs to another model or task"):
            trainer.fit(checkpoint)
