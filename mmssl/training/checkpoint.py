"""Checkpoints: complete or absent, never half; safetensors and JSON, no pickle.

A checkpoint is written beside its final place and renamed when it is complete and on disk, so a kill or a full disk
at any moment leaves the checkpoints before it as they were. Its ``state.json`` carries the digest of each file. Several
processes with a part of the model each write theirs as :mod:`mmssl.training.shards` says.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.predictors.base import read_safetensors, write_safetensors

LATEST = "latest"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(file: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new, nothing between."""
    staged = file.with_name(f".{file.name}.new")
    staged.write_text(text, encoding="utf-8")
    _sync(staged)
    os.replace(staged, file)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State by name of parameter and of what is kept of it, as in ``encoder.norm.weight/exp_avg``."""
    names = [name for group in optimizer.param_groups for name in group["names"]]
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value.detach() for i, entry in state.items() for key, value in entry.items()}


def write_state(staged: Path, step: int, extra: dict[str, Any]) -> None:
    """Write ``state.json`` with the digests of all tensors' files that lie there, the last file of a checkpoint."""
    digests = {file.name: _digest(file) for file in sorted(staged.glob("*.safetensors"))}
    replace_file(staged / "state.json", json.dumps({"step": step, "sha256": digests, **extra}))


def read_parts(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the model and of the optimizer, whole, however they were written."""
    if (path / "model.safetensors").is_file():
        return read_safetensors(path / "model.safetensors"), read_safetensors(path / "optimizer.safetensors")
    from mmssl.training.shards import read_shards

    return read_shards(path)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    names = [name for group in optimizer.param_groups for name in group["names"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        name, key = full.rsplit("/", 1)
        parameter = parameters[index[name]]
        if value.shape == parameter.shape:
            # the fused kernel goes through memory: laid out as the parameter is, channels last or not
            value = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
        state.setdefault(index[name], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, Tensor]:
    """Of torch's generators. Several processes have none to keep: see :func:`mmssl.training.distributed.seed_step`."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(path: Path) -> None:
    """Set torch's generators as they were when the checkpoint was written."""
    random = read_safetensors(path / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


class Checkpoints:
    """The ``checkpoints`` folder of a run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def path(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> Path:
        """Write the checkpoint of ``step``, point ``latest`` at it, delete all but the newest ``keep``.

        ``extra`` is stored as JSON and returned by :meth:`load`. On failure (disk full) the staged files are removed,
        checkpoints before stay as they were, and the OSError goes on to the caller.
        """
        with self.staging(step) as staged:
            parts = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer), "random": random_state()}
            for name, tensors in parts.items():
                write_safetensors(staged / f"{name}.safetensors", tensors)
            write_state(staged, step, extra)
        return self.path(step)

    @contextmanager
    def staging(self, step: int) -> Iterator[Path]:
        """A folder to fill, which becomes the checkpoint of ``step`` when the block ends, as :meth:`save` says."""
        final = self.path(step)
        staged = self.folder / f".{final.name}.{os.getpid()}"
        for left_by_a_kill in self.folder.glob(".step-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        try:
            staged.mkdir(parents=True)
            yield staged
            shutil.rmtree(final, ignore_errors=True)
            os.replace(staged, final)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        _sync(self.folder)
        replace_file(self.folder / LATEST, final.name + "\n")
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def latest(self) -> Path | None:
        """Folder of the newest checkpoint, or None."""
        pointer = self.folder / LATEST
        if pointer.is_file() and (named := self.folder / pointer.read_text().strip()).is_dir() and named != self.folder:
            return named
        steps = self.steps() if self.folder.is_dir() else []
        return self.path(steps[-1]) if steps else None

    def load(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Restore model, optimizer and random state from ``path``; returns ``extra`` with ``step``.

        Raises UserError naming the file that is cut, damaged or missing, and what can be resumed from instead.
        """
        state = self.check(path)
        weights, moments = read_parts(path)
        try:
            model.load_state_dict(weights)
            _load_optimizer(optimizer, moments)
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{path} belongs to another model or task ({reason}): choose another --out") from None
        restore_random(path)
        return state

    def check(self, path: Path) -> dict[str, Any]:
        """What ``state.json`` says. Raises UserError naming a file that is not as it was written."""
        state = self._read_state(path)
        for name, digest in state["sha256"].items():
            if not (path / name).is_file() or _digest(path / name) != digest:
                raise self._damaged(path / name)
        return state

    def _read_state(self, path: Path) -> dict[str, Any]:
        try:
            state = read_json(path / "state.json")
        except UserError:
            raise self._damaged(path / "state.json") from None
        if "sha256" not in state:
            raise self._damaged(path / "state.json")
        return state

    def _damaged(self, file: Path) -> UserError:
        others = [step for step in self.steps() if self.path(step) != file.parent]
        remedy = f"delete {file.parent} to resume from step {others[-1]}" if others else "start the run again"
        return UserError(f"{file} is cut or damaged: {remedy}")
