"""Pictures from shards against the same pictures as loose files, by the reader that training uses.

    python tests/benchmarks/shard_reading.py --clock cpu --threads 1

Batches of 64 pictures are read: their bytes alone, and decoded to crops of 64 pixels. All cases take turns, each in
the order of its own training (a full permutation, or a window of 8 shards), after the files' pages were dropped
(posix_fadvise, cold-ish) or not (warm). Medians of --rounds turns with the smallest and the largest. Without --data
JPEGs of 256 pixels are generated.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import hardware, versions
from PIL import Image

from mmssl.data.images import ImageLoader, open_images
from mmssl.data.shards.listing import ShardRows
from mmssl.data.shards.order import WindowOrder

ROOT = Path(__file__).resolve().parents[2]
BATCH = 64


def generate(folder: Path, count: int) -> Path:
    """Smooth colour patterns with some noise, about 25 kB each."""
    folder.mkdir()
    y, x = np.mgrid[:256, :256].astype(np.float32)
    for number in range(count):
        rng = np.random.default_rng(number)
        wave = np.sin(np.float32(rng.uniform(0.01, 0.1)) * y + np.float32(rng.uniform(0.01, 0.1)) * x)
        pixels = 128 + 80 * wave[..., None] + rng.integers(-20, 20, (256, 256, 3), np.int8)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def loader_of(data: Path) -> ImageLoader:
    return ImageLoader(open_images(data, split="train"), size=(64, 64), batch_size=BATCH, seed=0, cache="none")


def windowed(loader: ImageLoader) -> ImageLoader:
    """The same with the order of remote data."""
    rows = loader.source.index
    assert isinstance(rows, ShardRows)
    split = rows.index.facts.splits["train"]
    stored = rows.index.column("stored")[slice(*split.stored)]
    loader.order = WindowOrder(stored, split.starts, 8, BATCH, 0)
    return loader


def forget(folder: Path) -> None:
    """Ask the system to drop the files' pages."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=4000, help="pictures to generate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10, help="of a turn")
    parser.add_argument("--megabytes", type=float, default=4.0, help="of a shard")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    print(f"hardware   {hardware(torch.device('cpu'))}; {arguments.threads} threads; clock: {arguments.clock}")
    print(f"versions   {versions()}")
    with tempfile.TemporaryDirectory() as name:
        loose, sharded = arguments.data or generate(Path(name) / "loose", arguments.count), Path(name) / "sharded"
        command = [sys.executable, ROOT / "data_prep/shard.py", "--data", loose, "--out", sharded, "--workers", "0"]
        subprocess.run([*map(str, command), "--shard-megabytes", str(arguments.megabytes)], check=True)
        loaders = {"loose files": (loose, loader_of(loose)), "shards": (sharded, loader_of(sharded)),
                   "shards, window 8": (sharded, windowed(loader_of(sharded)))}  # fmt: skip

        def read(loader: ImageLoader, step: int) -> None:
            for index in loader.ids(step).tolist():
                loader.source.read(index)

        def crop(loader: ImageLoader, step: int) -> None:
            loader._reader().__getitems__([(0, place) for place in loader.order.batch(step)[0].tolist()])

        ways: dict[str, Callable[[ImageLoader, int], None]] = {"bytes": read, "crops": crop}
        for what, way in ways.items():
            for state in ("cold-ish", "warm"):
                rates: dict[str, list[float]] = {case: [] for case in loaders}
                for turn in range(arguments.rounds):
                    cases = list(loaders.items())
                    for case, (folder, loader) in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
                        first = turn * arguments.batches
                        if state == "cold-ish":
                            forget(folder)
                        else:
                            for step in range(first, first + arguments.batches):
                                read(loader, step)
                        begun = clock()
                        for step in range(first, first + arguments.batches):
                            way(loader, step)
                        rates[case].append(BATCH * arguments.batches / (clock() - begun))
                for case, found in rates.items():
                    middle = statistics.median(found)
                    print(
                        f"{what:<7}{state:<10}{case:<18}{middle:>9,.0f} a second ({min(found):,.0f}-{max(found):,.0f})"
                    )


if __name__ == "__main__":
    main()
