"""Fair timing of several ways to do the same work, in one process.

The cases take turns; the order rotates from round to round, so that a slow moment of the machine hits all of them and
a warm cache favours none. What counts is the ratio inside a round, and the median of those ratios.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

Step = Callable[[], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags common to all benchmarks."""
    parser.add_argument("--rounds", type=int, default=7, help="every case takes one turn a round; at least 5")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn, in whole steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time of this process, for one thread on a machine that others use too",
    )


def prepare(arguments: argparse.Namespace) -> torch.device:
    """Set the number of threads, print what is measured on, and return the device."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.clock == "cpu" and (device.type != "cpu" or arguments.threads != 1):
        raise SystemExit("--clock cpu adds up all threads and sees no device: use it with --device cpu --threads 1")
    print(f"hardware   {hardware(device)}; {arguments.threads} threads; clock: {arguments.clock}")
    print(f"versions   {versions()}")
    return device


def hardware(device: torch.device) -> str:
    """Name of the processor or graphics card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def versions() -> str:
    """Versions of everything that is compared."""
    found = [f"Python {platform.python_version()}"]
    for name in ("torch", "timm", "transformers", "lightly", "accelerate", "datasets", "torchvision"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


class Stopwatch:
    """Seconds of a call on a device, by wall clock or by processor time."""

    def __init__(self, device: torch.device, clock: str = "wall") -> None:
        self.device = device
        self.now = time.process_time if clock == "cpu" else time.perf_counter

    def __call__(self, step: Step, times: int = 1) -> float:
        """Seconds a call, over ``times`` calls in a row."""
        self._wait()
        start = self.now()
        for _ in range(times):
            step()
        self._wait()
        return (self.now() - start) / times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def matmul_peak(stopwatch: Stopwatch, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a large square matrix product: the best of bursts, since anything slower is somebody else's doing."""
    size = 8192 if stopwatch.device.type == "cuda" else 1024
    a = torch.randn(size, size, device=stopwatch.device, dtype=dtype)
    b, out = torch.randn_like(a), torch.empty_like(a)
    stopwatch(lambda: torch.mm(a, b, out=out), 3)
    return 2 * size**3 / min(stopwatch(lambda: torch.mm(a, b, out=out), 3) for _ in range(10))


def alternate(
    cases: Mapping[str, Step], stopwatch: Stopwatch, rounds: int, seconds: float
) -> Iterator[dict[str, float]]:
    """Seconds a step of each case, round by round."""
    names = list(cases)
    times = {}
    for name in names:
        stopwatch(cases[name])
        times[name] = max(1, round(seconds / stopwatch(cases[name])))
    for number in range(rounds):
        start = number % len(names)
        yield {name: stopwatch(cases[name], times[name]) for name in names[start:] + names[:start]}


def compare(
    cases: Mapping[str, Step],
    stopwatch: Stopwatch,
    rounds: int,
    seconds: float,
    items: int,
    useful_flops: Mapping[str, float],
    baselines: tuple[str, ...],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Time the cases and print a table: items/s, share of the matmul peak, and ratios against each baseline.

    ``items`` are worked on in a step; ``useful_flops`` says what one of them needs, ``dtype`` in which type most of it
    is computed. The last column is against the fastest baseline of each round. The peak is read before every round, and
    the best reading counts.
    """
    peaks, seen = [matmul_peak(stopwatch, dtype)], []
    for timings in alternate(cases, stopwatch, rounds, seconds):
        seen.append(timings)
        peaks.append(matmul_peak(stopwatch, dtype))
    peak = max(peaks)
    print(f"matmul peak {peak / 1e9:.1f} GFLOP/s; ratios: median over {rounds} rounds [lowest, highest]")
    head = "".join(f"{'x ' + name:>26}" for name in baselines)
    print(f"{'case':<28}{'items/s':>9}{'of peak':>9}{head}{'x best of them':>26}")
    for name in cases:
        rate = items / statistics.median(timings[name] for timings in seen)
        columns = [ratios([timings[base] / timings[name] for timings in seen]) for base in baselines]
        if baselines:
            columns.append(ratios([min(timings[base] for base in baselines) / timings[name] for timings in seen]))
        share = f"{rate * useful_flops[name] / peak:.0%}"
        print(f"{name:<28}{rate:>9.1f}{share:>9}" + "".join(f"{column:>26}" for column in columns), flush=True)


def ratios(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"
