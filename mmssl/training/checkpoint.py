"""Checkpoints: complete or absent, never half; safetensors and JSON, no pickle.

A checkpoint is written beside its final place and renamed when it is complete and on disk, so a kill or a full disk
at any moment leaves the checkpoints before it as they were. Its ``state.json`` carries the digest of each file. One
that does not agree with its digests is set aside, and the one before it is used. Several processes with a part of the
model each write theirs as :mod:`mmssl.training.shards` says.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.config import read_json
from mmssl.errors import FULL, UserError
from mmssl.predictors.base import read_safetensors, write_safetensors
from mmssl.terminal import tell

LATEST = "latest"
FILES = {"model.safetensors", "optimizer.safetensors", "random.safetensors"}
"""What a checkpoint consists of, beside its state.json, where the model is whole."""
SHARD = "shard-"
"""How the files begin that stand in place of the first two where it is cut."""
_NAME = re.compile(r"step-(\d{1,18})")
_ASIDE = "damaged-"
"""Before the name of a checkpoint that was found damaged, so that nothing takes it for one."""


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
    """Write a small file so that readers see the old content or the new, nothing between.

    Raises OSError, which names the file, where the disk is full.
    """
    staged = file.with_name(f".{file.name}.new")
    try:
        staged.write_text(text, encoding="utf-8")
        _sync(staged)
        os.replace(staged, file)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from None


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


def room(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes that saving takes: the weights twice, since those in ``model/`` are replaced, not overwritten."""
    weights = [*model.state_dict().values()]
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in weights + weights + [*optimizer_tensors(optimizer).values()]
    )


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
        return sorted(int(named[1]) for path in self.folder.glob("step-*") if (named := _NAME.fullmatch(path.name)))

    def path(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> Path:
        """Write the checkpoint of ``step``, point ``latest`` at it, delete all but the newest ``keep``.

        ``extra`` is stored as JSON and returned by :meth:`whole`. On failure the staged files are removed and the
        checkpoints before stay as they were; a full disk is a UserError that says how much room is needed.
        """
        with self.staging(step, room(model, optimizer)) as staged:
            parts = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer), "random": random_state()}
            for name, tensors in parts.items():
                write_safetensors(staged / f"{name}.safetensors", tensors)
            write_state(staged, step, extra)
        return self.path(step)

    @contextmanager
    def staging(self, step: int, size: int) -> Iterator[Path]:
        """A folder to fill with ``size`` bytes, which becomes the checkpoint of ``step`` when the block ends, as
        :meth:`save` says."""
        final = self.path(step)
        staged = self.folder / f".{final.name}.{os.getpid()}"
        for left_by_a_kill in self.folder.glob(".step-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        try:
            staged.mkdir(parents=True)
            yield staged
            _sync(staged)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(staged, final)
        except BaseException as error:
            shutil.rmtree(staged, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in FULL:
                raise self._full(step, size, error) from None
            raise
        _sync(self.folder)
        replace_file(self.folder / LATEST, final.name + "\n")
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)

    def latest(self) -> Path | None:
        """Folder of the newest checkpoint, or None."""
        pointer = self.folder / LATEST
        named = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
        if _NAME.fullmatch(named) and (self.folder / named).is_dir():
            return self.folder / named
        steps = self.steps() if self.folder.is_dir() else []
        return self.path(steps[-1]) if steps else None

    def restore(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Model, optimizer and random state of a :meth:`whole` checkpoint. Raises UserError for another model's."""
        weights, moments = read_parts(path)
        try:
            model.load_state_dict(weights)
            _load_optimizer(optimizer, moments)
            restore_random(path)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [""])[-1].strip()
            raise UserError(f"{path} belongs to another model or task ({reason}): choose another --out") from None

    def whole(self, path: Path) -> tuple[Path, dict[str, Any]]:
        """``path`` and its ``extra`` with ``step``, or those of the newest whole checkpoint before it.

        One of which a file is cut, damaged or missing is set aside, which is said on standard error. Raises UserError
        where none is whole.
        """
        first = None
        while True:
            state, damaged = _examine(path)
            if damaged is None:
                return path, state
            first = first or damaged
            aside = self._set_aside(path)
            before = [step for step in self.steps() if self.path(step).name < path.name]
            if not before:
                raise UserError(
                    f"{first} is cut or damaged, and there is no whole checkpoint before it: start the run again, in "
                    "another --out"
                )
            path = self.path(before[-1])
            tell(f"warning: {damaged} is cut or damaged: going back to {path.name}, {aside}", file=sys.stderr)

    def _set_aside(self, path: Path) -> str:
        """Keep a damaged checkpoint under a name that is none; says where it is."""
        aside = path.with_name(_ASIDE + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            path.rename(aside)
        except OSError as error:
            return f"the damaged one could not be moved away ({error.strerror})"
        return f"the damaged one is kept as {aside.name}"

    def _full(self, step: int, size: int, error: OSError) -> UserError:
        kept = self.steps()
        whole = f"the checkpoint of step {kept[-1]} is whole" if kept else "there is no checkpoint yet"
        return UserError(
            f"{self.folder} has no room for the checkpoint of step {step}, which takes {size / 1e6:,.1f} MB with the "
            f"model ({error.strerror}); {whole}: make room and add --resume"
        )


def _is_complete(names: Iterable[str]) -> bool:
    """Whether these are all the files of a checkpoint, of one form or the other."""
    parts = {"model.safetensors", "optimizer.safetensors"} if any(name.startswith(SHARD) for name in names) else set()
    return FILES - parts <= {*names}


def _examine(path: Path) -> tuple[dict[str, Any], Path | None]:
    """The state of a checkpoint, and the first of its files that does not agree with what was written of it."""
    file = path / "state.json"
    try:
        state = read_json(file)
        digests = dict(state["sha256"])
        if type(state["step"]) is not int or not _is_complete(digests):
            return {}, file
    except (UserError, KeyError, TypeError, ValueError):
        return {}, file
    for name, digest in digests.items():
        file = path / Path(name).name  # whatever the file says, nothing outside is read
        try:
            if _digest(file) != digest:
                return {}, file
        except OSError:
            return {}, file
    return state, None
