"""Ranks: the processes that ``torchrun`` starts, and what they agree on.

    with one_sentence_errors(), torchrun_ranks():
        ...                                        # rank 0 prints, the others are silent

Everything here also works in a process of its own, which is rank 0 of 1. Small things go over gloo, from CPU to CPU;
gradients go over NCCL where there is CUDA. Texts travel as bytes: nothing is pickled.
"""

import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.nn.over_ranks import rank_count

c10d: Any = dist
"""Its stores are documented, but not in its list of names."""

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets for each process."""

PATIENCE = timedelta(hours=1)
"""How long a rank waits for another one that says nothing: longer than any checkpoint takes to write. One that fails
says so, and ends all at once."""

START = timedelta(minutes=10)
"""How long those that have begun wait for the others to begin."""

START_REMEDY = (
    "see what the others say, and give torchrun the same --nnodes, --nproc-per-node and --rdzv-endpoint (or "
    "--master-addr and --master-port) on all machines, and a port that no firewall closes"
)
POLL_SECONDS = 0.2
LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")
"""What gloo and NCCL say when another process is gone."""

GRACE_SECONDS = 10.0
"""Between the ends of processes that all go well."""


def launched() -> bool:
    """Whether torchrun started this process; then gradients go through DDP or FSDP, also where it is the only one."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if launched() else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def place() -> tuple[int, int]:
    """``(rank, ranks)``: what loaders ask for."""
    return rank(), rank_count()


@contextmanager
def torchrun_ranks() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; a failure of one ends all, and only the first speaks.

    Raises what the block raises, in the process that failed first. Another one that fails, or waits for it anywhere,
    ends in silence. Raises UserError where not all have begun within :data:`START` of the first.
    """
    if not all(name in os.environ for name in TORCHRUN):
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    mine, number, count = _meet()
    # before the group, which nobody has joined until all try to: after it the process that keeps the table may end
    line = _connect("alarm")
    dist.init_process_group(backend, store=mine, rank=number, world_size=count, timeout=PATIENCE)
    silent = None if is_main() else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    spoken, sys.stdout = sys.stdout, silent or sys.stdout
    alarm = _Alarm(line)
    try:
        barrier()  # or one that fails at once would end while others still join the group
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not _is_failure(error):
            alarm.stop()
            raise
        if not alarm.ring():
            _leave()
        if isinstance(error, RuntimeError) and any(words in str(error) for words in LOST):
            raise UserError(
                "another process ended without a word, killed perhaps: look for what the system says of it, such as "
                "too little memory"
            ) from None
        raise
    else:
        barrier()
        alarm.stop()
    finally:
        sys.stdout = spoken
        if silent is not None:
            silent.close()
        if alarm.stopped:
            dist.destroy_process_group()


def _meet() -> tuple[Any, int, int]:
    """``(table, rank, ranks)`` once all ranks have begun: a table of keys that all share.

    Raises UserError in the first that has waited for :data:`START`. Those that wait with it end in silence.
    """
    until = time.monotonic() + START.total_seconds()
    try:
        store, number, count = next(rendezvous("env://", timeout=START))
    except dist.DistError as error:
        # said by rank 0 where it keeps the table itself, and by one that does not reach whoever keeps it
        joined = re.search(r"(\d+)/(\d+) clients joined", str(error))
        if joined:
            raise _nobody_came(int(joined[1]), int(joined[2])) from None
        if "timed out" not in str(error):
            raise
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"process {os.environ['RANK']} reached nobody at {where} within {_in_words(START)}: {START_REMEDY}"
        ) from None
    # torchrun keeps one table over all its starts, in which the addresses of processes before are left
    mine = c10d.PrefixStore(f"mmssl/start/{restarts()}", store)
    try:
        mine.set(f"began/{number}", "")
        mine.add("began", 1)
        while mine.add("began", 0) < count:
            if mine.check(["given up"]):
                _leave()
            if time.monotonic() > until:
                if mine.add("given up", 1) > 1:
                    _leave()
                missing = [other for other in range(count) if not mine.check([f"began/{other}"])]
                raise _nobody_came(count - len(missing), count, missing)
            time.sleep(POLL_SECONDS)
    except dist.DistError:
        raise UserError(
            "the process that the others began with has ended before all had begun: see its errors"
        ) from None
    store.set_timeout(PATIENCE)
    return mine, number, count


def _nobody_came(began: int, count: int, missing: Sequence[int] = ()) -> UserError:
    which = f" (not {', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''})" if missing else ""
    return UserError(f"only {began} of {count} processes have begun within {_in_words(START)}{which}: {START_REMEDY}")


def _in_words(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds / 60:g} minutes" if seconds >= 120 else f"{seconds:g} s"


def _is_failure(end: SystemExit) -> bool:
    """Every rank ends after ``--help`` and after an interruption; with any other code only the one that failed."""
    from mmssl.errors import INTERRUPTED

    return end.code not in (None, 0, INTERRUPTED)


def _leave() -> None:
    """End at once, whatever this process waits for; its children notice."""
    sys.stderr.flush()
    os._exit(1)


def _connect(what: str) -> Any:
    """A connection of its own to the table that torchrun keeps for its processes."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = c10d.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=PATIENCE)
    return c10d.PrefixStore(f"mmssl/{what}/{restarts()}", store)


class _Alarm:
    """Tells all ranks that one has failed. A thread listens, over a connection of its own: a process that waits for
    another one in a collective, or reads data, would not hear a signal."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.stopped = False
        self.quiet = threading.Event()
        self.lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while not self.quiet.wait(POLL_SECONDS):
            try:
                with self.lock:
                    rung = not self.quiet.is_set() and self.store.check(["failed"])
            except RuntimeError:  # whoever kept the table is gone, with the others if all is well
                rung = not self.quiet.wait(GRACE_SECONDS)
            if rung:
                _leave()

    def ring(self) -> bool:
        """Tell the others; whether nobody did before."""
        with self.lock:
            self.quiet.set()
            try:
                return self.store.add("failed", 1) == 1
            except RuntimeError:
                return False

    def stop(self) -> None:
        """Listen no more: what happens to other processes from now on is not our concern."""
        with self.lock:
            self.quiet.set()
        self.stopped = True


# what ranks agree on


def barrier() -> None:
    """Wait for all ranks."""
    agree([0.0])


def agree(values: Sequence[float]) -> list[float]:
    """The largest of each number over all ranks, the same everywhere."""
    numbers = torch.tensor(list(values), dtype=torch.float64)
    if launched():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers.tolist()


def total(values: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, on its device."""
    if rank_count() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def total_by_name(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums of numbers by name over all ranks, in double precision. A rank that has none, for lack of data, has 0."""
    if rank_count() == 1:
        return sums
    names = broadcast_text("\n".join(sums)).split("\n")
    device = next(iter(sums.values())).device if sums else None
    if names == [""]:
        return sums
    if device is None:
        device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    zero = torch.zeros((), dtype=torch.float64, device=device)
    values = total(torch.stack([sums[name].double() if name in sums else zero for name in names]))
    return dict(zip(names, values.unbind(), strict=True))


def broadcast_text(text: str, source: int = 0) -> str:
    """The text of one rank, everywhere."""
    if rank_count() == 1:
        return text
    raw = text.encode("utf-8", "surrogateescape")
    length = torch.tensor([len(raw)])
    dist.broadcast(length, source)
    sent = torch.zeros(int(length), dtype=torch.uint8)
    if rank() == source:
        sent = torch.from_numpy(np.frombuffer(raw, np.uint8).copy())
    dist.broadcast(sent, source)
    return sent.numpy().tobytes().decode("utf-8", "surrogateescape")


def gather_texts(text: str) -> list[str]:
    """The texts of all ranks, in their order."""
    return [broadcast_text(text, source) for source in range(rank_count())]


def same_everywhere(what: str, text: str) -> None:
    """Raises UserError where ranks were given different things, such as another copy of the data on each machine."""
    texts = gather_texts(text)
    for number, other in enumerate(texts):
        if other != texts[0]:
            raise UserError(f"process {number} sees another {what} than process 0 ({other}; {texts[0]}): give all one")


class Wishes:
    """What single ranks want, such as to stop after a signal, told to all so that they do it at the same step.

    Asking waits for nothing: the answer is that to the question before, which has arrived long since.
    """

    def __init__(self, count: int) -> None:
        self.asked: tuple[dist.Work | None, Tensor] = (None, torch.zeros(count))

    def ask(self, *wishes: bool) -> list[bool]:
        """One truth for each wish, the same on all ranks; without other ranks the wishes themselves."""
        if rank_count() == 1:
            return list(wishes)
        work, told = self.asked
        if work is not None:
            work.wait()
        numbers = torch.tensor(wishes, dtype=torch.float32)
        self.asked = dist.all_reduce(numbers, dist.ReduceOp.MAX, async_op=True), numbers
        return [number > 0 for number in told.tolist()]

    def settle(self) -> None:
        """Wait for the last question, so that nothing is left on its way."""
        work, told = self.asked
        if work is not None:
            work.wait()
        self.asked = None, torch.zeros_like(told)


@contextmanager
def one_after_another() -> Iterator[None]:
    """The block in the first process of each machine, and then in its others, which find on disk what it made.

    However long it takes, the others wait; where it fails they end.
    """
    if rank_count() == 1:
        yield
        return
    store = _connect("prepared")
    key = f"{os.environ.get('GROUP_RANK', '0')}/{next(_turns)}"
    while local_rank() > 0 and not store.check([key]):
        time.sleep(POLL_SECONDS)
    yield
    if local_rank() == 0:
        store.set(key, "done")


_turns = itertools.count()


@contextmanager
def main_first() -> Iterator[None]:
    """The block in rank 0 and then in all others, for what all would complain about alike: then rank 0 alone does."""
    if not is_main():
        barrier()
        yield
        return
    try:
        yield
    except SystemExit as end:
        if not _is_failure(end):
            barrier()
        raise
    barrier()


# what is a function of the rank


def share_of_batch(batch_size: int, accumulation: int) -> int:
    """Samples of a micro-batch of this rank. Raises UserError where ranks and micro-batches would not be equal."""
    ranks = rank_count()
    if batch_size % (accumulation * ranks):
        parts = f"{ranks} processes" + (f" x {accumulation} micro-batches" if accumulation > 1 else "")
        raise UserError(
            f"--batch-size {batch_size} cannot be split evenly among {parts}: choose a multiple of "
            f"{accumulation * ranks}"
        )
    return batch_size // (accumulation * ranks)


def seed_step(seed: int, step: int) -> None:
    """Set torch's generator as a function of (seed, step, rank), so that dropout differs between ranks and a resumed
    run goes on as it would have. A process of its own goes on with the generator it has."""
    if rank_count() > 1:
        words = np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, step, rank()]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0] >> np.uint64(1)))


def rank_device(name: str) -> str:
    """The device of this rank for what --device says: with several processes on CUDA, one GPU each.

    Raises UserError where there are fewer GPUs than processes, and where a single one is named for several.
    """
    if not launched():
        return name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda:") and rank_count() > 1:
        raise UserError(f"--device {name} is one GPU for {rank_count()} processes: give cuda")
    if name == "cuda" and torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise UserError(f"there are {torch.cuda.device_count()} GPUs here: give torchrun as many --nproc-per-node")
        torch.cuda.set_device(local_rank())
        return f"cuda:{local_rank()}"
    return name


# what torchrun does


def restarts() -> int:
    """How often torchrun has started these processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch_id() -> str | None:
    """What tells one call of torchrun from another: processes that it starts again have the same."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if run is None or not launched() else f"{run} {os.getppid()}"


def begun_before(config_file: Path) -> bool:
    """Whether torchrun has started these processes again after they had begun this run: then it goes on, unasked.

    A run that was there before torchrun was called is none of these, however often it starts processes.
    """
    if not launched() or not restarts():
        return False
    mine = config_file.is_file() and read_json(config_file).get("launch") == launch_id()
    return bool(agree([float(is_main() and mine)])[0])
