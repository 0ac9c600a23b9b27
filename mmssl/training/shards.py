"""Checkpoints of a model that is cut among processes, and how any checkpoint is continued by any number of them.

Each process writes its part of all tensors, through torch's distributed checkpoint with its storage in safetensors
(``HuggingFaceStorageWriter``): what part it is stands in the header of each file, as JSON. The ``.metadata`` that this
library writes by default is a pickle, and there is none here. In ``step-00000500/`` lie then

    shard-00001-model-00001-of-00001.safetensors ...     model and optimizer, a file a process
    state.json                                           as ever, with the digest of each file

in place of ``model.safetensors`` and ``optimizer.safetensors``. Names of tensors are the same in both forms, so each
can be read into a model that is whole or cut, by any number of processes.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.over_ranks import is_cut
from mmssl.predictors.base import read_safetensors, write_safetensors
from mmssl.training.checkpoint import (
    Checkpoints,
    optimizer_tensors,
    random_state,
    restore_random,
    room,
    write_state,
)
from mmssl.training.distributed import barrier, broadcast_text, is_main

RANDOM = "random.safetensors"


def has_parts(model: nn.Module) -> bool:
    """Whether processes hold a part of the model each."""
    return any(map(is_cut, model.parameters()))


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """All weights of a model that is cut, in rank 0, which every rank must ask for; None for one that is whole."""
    if not has_parts(model):
        return None
    weights = {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if is_cut(value) else value
        if is_main():  # one at a time: a GPU need not have room for all
            weights[name] = full.cpu()
    return weights


def save_checkpoint(
    checkpoints: Checkpoints, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]
) -> None:
    """:meth:`Checkpoints.save` by all ranks together: rank 0 writes a model that is whole, each its part of one that is
    cut. Returns when the checkpoint is complete. Raises OSError where a disk is full, on whichever rank."""
    if not has_parts(model):
        if is_main():
            checkpoints.save(step, model, optimizer, extra)
        barrier()
        return
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with checkpoints.staging(step, room(model, optimizer)) if is_main() else nullcontext() as staged:
        folder = broadcast_text(str(staged))
        tensors = {**model.state_dict(), **optimizer_tensors(optimizer)}
        try:
            save(tensors, storage_writer=HuggingFaceStorageWriter(folder, save_distributed=True))
        except CheckpointException as error:
            # what went wrong in a process, rather than that something did
            causes = [failure[0] if isinstance(failure, tuple) else failure for failure in error.failures.values()]
            raise next((cause for cause in causes if isinstance(cause, OSError)), error) from None
        if staged is not None:
            write_safetensors(staged / RANDOM, random_state())
            write_state(staged, step, extra)
    barrier()


def load_checkpoint(
    checkpoints: Checkpoints, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """:meth:`Checkpoints.whole` and restoring by all ranks together, into a model that is whole or cut.

    Returns ``extra`` with ``step``. Raises UserError where none is whole, and for one of another model.
    """
    state = None
    if is_main():  # alone: what is damaged is moved aside
        path, state = checkpoints.whole(path)
    path = Path(broadcast_text(str(path)))
    if state is None:
        path, state = checkpoints.whole(path)
    if not has_parts(model):
        checkpoints.restore(path, model, optimizer)
    else:
        _load_cut(path, model, optimizer)
        restore_random(path)
    barrier()
    return state


def _load_cut(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    wanted = dict(model.state_dict())
    reader = HuggingFaceStorageReader(str(path))
    saved = reader.read_metadata().state_dict_metadata
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    state: dict[Tensor, dict[str, Tensor]] = {}
    for full, found in saved.items():
        name, _, key = full.rpartition("/")
        if name in parameters:
            parameter = parameters[name]
            wanted[full] = state.setdefault(parameter, {})[key] = _room(found, parameter)
    try:
        load(wanted, storage_reader=reader)
    except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} belongs to another model or task ({reason}): choose another --out") from None
    optimizer.state.update(state)


def _room(found: Any, parameter: Tensor) -> Tensor:
    """An empty tensor for what is kept of a parameter: cut as that is, where it is as large."""
    dtype = found.properties.dtype
    if found.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype)
    return torch.zeros(found.size, dtype=dtype, device=parameter.device)


def read_shards(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the model and of the optimizer of a checkpoint in parts, put together in this process."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    saved: Any = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.zeros(found.size, dtype=found.properties.dtype) for name, found in saved.items()}
    load(tensors, storage_reader=reader, no_dist=True)
    moments = {name: value for name, value in tensors.items() if "/" in name}
    random = read_safetensors(path / RANDOM)
    return {name: value for name, value in tensors.items() if name not in moments and name not in random}, moments
