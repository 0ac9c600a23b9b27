"""Batches from worker processes to the training device."""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmssl.data.processes import START_METHOD, beginning, begun
from mmssl.data.source import FileSource
from mmssl.errors import UserError, lost_worker

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Failure:
    """Travels from a worker in place of a batch: the file that could not be decoded."""

    index: int
    reason: str


def read_batches(
    reader: Dataset["Batch | Failure"], order: Iterable[list[tuple[int, int]]], workers: int, pin: bool
) -> Iterator["Batch | Failure"]:
    """What ``reader.__getitems__`` makes of each list of (epoch, place) pairs, in this order for any number of workers.

    Args:
        reader: picklable where processes are spawned.
        order: read as far ahead as the workers need.
        workers: processes; 0 reads in this one.
        pin: put batches into page-locked memory, for a GPU.

    Raises:
        UserError: when one of the processes was killed.
    """
    loader = DataLoader(
        reader,
        batch_sampler=order,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=START_METHOD if workers else None,
        worker_init_fn=_begin,
        # else it draws a seed from torch's generator each time it is begun, and a resumed run begins it once more than
        # one that nobody disturbed: its dropout would differ. Readers draw from (seed, epoch, place) alone.
        generator=torch.Generator(),
    )
    try:
        with beginning():
            batches = iter(loader)
        yield from batches
    except RuntimeError as error:
        sentence = lost_worker(error)
        if sentence is None:
            raise
        raise UserError(sentence) from None


def delivered(result: "Batch | Failure", source: FileSource) -> Batch:
    """The batch. Raises UserError when a file that was readable before training is not now.

    A sample replaced in silence would break what the order promises; resuming goes on with the very same batch.
    """
    if isinstance(result, Failure):
        raise UserError(
            f"{source.location(result.index)} was readable before training and is not now ({result.reason}): "
            f"repair or remove it (`mmssl inspect {source.name}` checks every file) and resume"
        )
    return result


def send(batch: Batch, device: torch.device, pin: bool) -> Batch:
    """The batch on the device, without waiting for it; ``pin`` where it was not read into page-locked memory."""
    if device.type != "cuda":
        return {key: value.to(device) for key, value in batch.items()}
    ready = {key: value.pin_memory() if pin and not value.is_cuda else value for key, value in batch.items()}
    return {key: value.to(device, non_blocking=True) for key, value in ready.items()}


def _begin(_worker: int) -> None:
    """What a worker does first.

    A terminal sends Ctrl-C to every process, and torchrun what it ends them with; both are the trainer's to handle, and
    it needs its workers for that.
    """
    begun()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_is(batch: Any) -> Any:
    return batch
