"""Does a long run stay as it is? Trains a recipe for minutes or hours and watches its processes from outside.

    python tests/soak/soak_training.py --minutes 60

Every few seconds it notes, from /proc, the memory of the trainer and of its workers (RSS; shared pages count in each),
their open files and the processor time they took, and from the journal how many samples were trained. The run crops
pictures in a worker process, validates, draws and saves as any other. What comes before the first fifth is left out:
allocators, caches and code are still being warmed up; and so are moments with more processes than usual, in which a
validation has a worker of its own. Exit code 1 unless, over what is left,

- memory of trainer and workers together, fitted by a line, rises by less than 3 % or 16 MB an hour, whichever is more,
  or by no more than what its scatter explains (three standard errors of the slope);
- no more files are open than at its beginning (the fewest seen in a tenth: a save opens some for a while);
- at its end the run trains at least 0.9 times as many samples a second of processor time as one that has just begun.
  The two take turns, each halted while the other trains, so that both meet the same machine: over an hour the same
  work may take a quarter more or less time wherever cores, caches and memory are shared.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
EVERY = 5.0
"""Seconds between two looks."""
LEFT_OUT = 0.2
MEMORY_SHARE, MEMORY_MB, LEAST_SPEED = 0.03, 16.0, 0.9
ERRORS = 3.0
TURNS, TURN_SECONDS, WARMING_UP = 5, 30.0, 60.0
"""How often the old and the fresh run each train for so long, and how long the fresh one has trained before."""
TICKS = os.sysconf("SC_CLK_TCK")


class Look(NamedTuple):
    """What was seen at a moment."""

    seconds: float
    """Since the first step."""
    trainer_mb: float
    workers_mb: float
    files: int
    processes: int
    cpu_seconds: float
    samples: float
    """Trained up to the newest line of the journal, and what its processor time was then."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--log", type=Path, help="keep what was seen, one JSON object a line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        looks, old, fresh = watch(Path(folder), 60 * asked.minutes, asked.pictures)
    if asked.log:
        asked.log.write_text("".join(json.dumps(look._asdict()) + "\n" for look in looks), encoding="utf-8")
    print_minutes(looks)
    faults = [*judge(looks), *judge_speed(old, fresh)]
    print("\n".join(faults) or "flat")
    raise SystemExit(1 if faults else 0)


def watch(folder: Path, seconds: float, pictures: int) -> tuple[list[Look], list[float], list[float]]:
    """Train for so many seconds from the first line of the journal on; then the speeds of this run and of a fresh one.

    Both are ended as a cluster would end them.
    """
    draw_pictures(folder / "pictures", pictures)
    with started(folder, "old") as old:
        looks = look_on(old, folder, seconds)
        tell_all(old, signal.SIGSTOP)
        with started(folder, "fresh") as fresh:
            until = time.monotonic() + WARMING_UP
            while not last_step(folder / "fresh" / "journal.jsonl") or time.monotonic() < until:
                time.sleep(1)
            tell_all(fresh, signal.SIGSTOP)
            turns = [[turn(run, folder, name) for run, name in ((old, "old"), (fresh, "fresh"))] for _ in range(TURNS)]
            tell_all(fresh, signal.SIGCONT)
        tell_all(old, signal.SIGCONT)
    return looks, *map(list, zip(*turns, strict=True))


@contextmanager
def started(folder: Path, name: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [
        sys.executable, ROOT / "recipes/image_mae.py", "--data", folder / "pictures", "--out", folder / name,
        "--preset", "pico", "--image-size", "32", "--patch-size", "8", "--batch-size", "16", "--workers", "1",
        "--cache", "none", "--device", "cpu", "--steps", "100000000", "--warmup-steps", "10", "--learning-rate", "1e-4",
        "--log-every", "10", "--validate-every", "100", "--validation-images", "16", "--checkpoint-every", "100",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.output").open("wb") as output:
        trainer = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output, env=environment)
        try:
            yield trainer
            trainer.send_signal(signal.SIGTERM)
            code = trainer.wait(timeout=600)
        finally:
            tell_all(trainer, signal.SIGKILL)  # workers that are halted would not notice that it is gone
            trainer.wait()
    if code != 130:
        sys.exit(f"a run ended with code {code}, not that of an interrupted one:\n{tail(folder / f'{name}.output')}")


def family_of(trainer: "subprocess.Popen[bytes]") -> list[int]:
    """The process and all that it has started."""
    return [trainer.pid, *below(trainer.pid)]


def tell_all(trainer: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """SIGSTOP halts a run, SIGCONT lets it go on."""
    if trainer.poll() is None:
        for pid in family_of(trainer):
            os.kill(pid, number)


def turn(trainer: "subprocess.Popen[bytes]", folder: Path, name: str) -> float:
    """Samples for each second of processor time while it is the run's turn."""
    family, journal = family_of(trainer), folder / name / "journal.jsonl"
    step, cpu = last_step(journal), sum(map(cpu_seconds, family))
    tell_all(trainer, signal.SIGCONT)
    time.sleep(TURN_SECONDS)
    check_alive(trainer, folder, name)
    tell_all(trainer, signal.SIGSTOP)
    return 16.0 * (last_step(journal) - step) / (sum(map(cpu_seconds, family)) - cpu)


def check_alive(trainer: "subprocess.Popen[bytes]", folder: Path, name: str) -> None:
    if trainer.poll() is not None:
        said = tail(folder / f"{name}.output")
        sys.exit(f"the {name} run ended by itself, with exit code {trainer.returncode}:\n{said}")


def look_on(trainer: "subprocess.Popen[bytes]", folder: Path, seconds: float) -> list[Look]:
    looks: list[Look] = []
    began, seen = 0.0, (0, 0.0)
    while not began or time.monotonic() - began < seconds:
        time.sleep(EVERY)
        check_alive(trainer, folder, "old")
        step = last_step(folder / "old" / "journal.jsonl")
        if not step:
            continue
        began = began or time.monotonic()
        family = family_of(trainer)
        cpu = sum(cpu_seconds(pid) for pid in family)
        if step != seen[0]:
            seen = step, cpu
        looks.append(
            Look(
                time.monotonic() - began, megabytes(family[0]), sum(map(megabytes, family[1:])),
                sum(map(open_files, family)), len(family), seen[1], 16.0 * seen[0],
            )
        )  # fmt: skip
    return looks


def draw_pictures(folder: Path, count: int) -> None:
    """Gradients of two colours with some noise, as PNG and JPEG."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 48)
    for number in range(count):
        first, second = rng.integers(0, 256, (2, 3))
        mixed = ramp[:, None, None] * first + ramp[None, ::-1, None] * second
        noisy = (mixed / 2 + rng.normal(0, 4, (48, 48, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.{'png' if number % 2 else 'jpg'}")


def last_step(journal: Path) -> int:
    """Step of the newest whole line; 0 before there is one."""
    try:
        with journal.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def below(pid: int) -> list[int]:
    """Child processes, at any depth."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *below(child))]


def megabytes(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def cpu_seconds(pid: int) -> float:
    """Of a process and of its ended children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def fit(times: list[float], values: list[float]) -> tuple[float, float, float]:
    """Least squares: slope, its standard error, and the value at the mean time."""
    middle, mean = statistics.fmean(times), statistics.fmean(values)
    spread = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * value for time, value in zip(times, values, strict=True)) / spread
    rest = sum((value - mean - slope * (time - middle)) ** 2 for time, value in zip(times, values, strict=True))
    return slope, (rest / (len(times) - 2) / spread) ** 0.5, mean


def judge(looks: list[Look]) -> list[str]:
    """What is not flat, in sentences."""
    usual = statistics.mode(look.processes for look in looks)
    later = [look for look in looks if look.seconds >= LEFT_OUT * looks[-1].seconds and look.processes == usual]
    if len(later) < 10:
        return ["too few looks to judge by: give more --minutes"]
    faults = []
    times = [look.seconds for look in later]
    slope, error, mean = fit(times, [look.trainer_mb + look.workers_mb for look in later])
    print(f"memory  {mean:.0f} MB on average, {3600 * slope:+.1f} MB an hour (standard error {3600 * error:.1f})")
    if 3600 * slope > max(MEMORY_MB, MEMORY_SHARE * mean) and slope > ERRORS * error:
        faults.append(f"memory rises by {3600 * slope:.1f} MB an hour")
    tenth = max(1, len(later) // 10)
    first, last = (min(look.files for look in part) for part in (later[:tenth], later[-tenth:]))
    print(f"files   {first} open at the beginning, {last} at the end")
    if last > first:
        faults.append(f"open files rose from {first} to {last}")
    return faults


def judge_speed(old: list[float], fresh: list[float]) -> list[str]:
    """A sentence where the old run is slower than the fresh one."""
    now, then = statistics.median(old), statistics.median(fresh)
    spread = [max(each) / min(each) - 1 for each in (old, fresh)]
    print(
        f"speed   {now:.1f} samples a second of processor time, {then:.1f} of a run that has just begun: ratio "
        f"{now / then:.3f} (medians of {len(old)} turns, which differ by {spread[0]:.0%} and {spread[1]:.0%})"
    )
    return [f"it trains at {now / then:.2f} times the speed of a run that has just begun"] * (now < LEAST_SPEED * then)


def print_minutes(looks: list[Look]) -> None:
    print("minute  trainer MB  workers MB  files  processes  samples  processor s")
    for minute, group in itertools.groupby(looks, lambda look: int(look.seconds // 60)):
        last = list(group)[-1]
        print(
            f"{minute:6}  {last.trainer_mb:10.1f}  {last.workers_mb:10.1f}  {last.files:5}  {last.processes:9}  "
            f"{last.samples:7.0f}  {last.cpu_seconds:11.1f}"
        )


def tail(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")[-2000:] if file.is_file() else ""


if __name__ == "__main__":
    if not Path("/proc/self/statm").is_file():
        sys.exit("this needs Linux: it reads /proc")
    main()
