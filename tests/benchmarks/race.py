"""Whole commands against each other: started as processes of their own, in turns, with empty caches.

A ratio of times counts only where both sides ended at the same validation loss, so that is measured too, and
:func:`conclude` stops where ours is worse.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from harness import hardware, ratios, versions

ROOT = Path(__file__).resolve().parents[2]
PEER_NEEDS = ("transformers", "datasets", "accelerate")


@dataclass(frozen=True)
class Turn:
    """One run of one side."""

    seconds: float
    cpu_seconds: float
    """Processor time of the process and its workers; other work on the machine moves it less."""
    loss: float


def say_conditions() -> None:
    """Stop where a peer's package is missing; print what is measured on."""
    missing = [name for name in PEER_NEEDS if find_spec(name) is None]
    if missing:
        raise SystemExit(f"the peer needs: pip install {' '.join(missing)}")
    print(f"hardware   {hardware(torch.device('cpu'))}; {torch.get_num_threads()} threads\nversions   {versions()}")


def command_line(script: Path, options: Mapping[str, object]) -> list[str]:
    """``python script --name value ...``."""
    return [sys.executable, str(script), *(str(part) for name in options for part in (f"--{name}", options[name]))]


def timed(command: list[str], home: Path) -> tuple[float, float]:
    """Run a command with empty caches; wall and processor seconds. Stops with its output where it fails."""
    caches = {"XDG_CACHE_HOME": str(home), "MMSSL_CACHE": str(home / "mmssl"), "HF_HOME": str(home / "hf")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | caches | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def race(
    rounds: int,
    folder: Path,
    commands: Callable[[Path, Path, int], tuple[list[str], list[str]]],
    losses: Callable[[Path, Path], tuple[float, float]],
) -> list[tuple[Turn, Turn]]:
    """Take turns. ``commands(ours, peer, seed)`` write the folders that ``losses(ours, peer)`` then measures."""
    turns = []
    for number in range(rounds):
        places = folder / f"{number}-ours", folder / f"{number}-peer"
        both = dict(zip(places, commands(*places, number), strict=True))
        order = places if number % 2 == 0 else places[::-1]
        times = {place: timed(both[place], folder / f"{place.name}-cache") for place in order}
        turns.append(
            tuple(Turn(*times[place], loss) for place, loss in zip(places, losses(*places), strict=True))
        )  # fmt: skip
        sides = zip(("ours", "transformers"), turns[-1], strict=True)
        shown = [
            f"{name} {s.seconds:.1f} s ({s.cpu_seconds:.1f} s of processors), loss {s.loss:.4f}" for name, s in sides
        ]
        print(f"round {number + 1}    {'; '.join(shown)}", flush=True)
    return turns


def conclude(turns: list[tuple[Turn, Turn]], tolerance: float) -> None:
    """Ratios, and whether they count: ``tolerance`` is the largest share by which our mean loss may be higher."""
    ours, peers = (statistics.mean(side.loss for side in sides) for sides in zip(*turns, strict=True))
    print(f"time       x {ratios([peer.seconds / own.seconds for own, peer in turns])}, median [lowest, highest]")
    print(f"processors x {ratios([peer.cpu_seconds / own.cpu_seconds for own, peer in turns])}")
    print(f"loss       ours {ours:.4f}, transformers {peers:.4f}")
    if ours > peers * (1 + tolerance):
        raise SystemExit(f"our loss is more than {tolerance:.0%} above the peer's: the ratios do not count")
