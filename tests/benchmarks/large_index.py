"""What 10^8 samples cost before the first batch: the index of a set of shards, its order, and lookups in both.

    python tests/benchmarks/large_index.py --count 100000000

An index is generated without any data (45 bytes a sample, in a temporary folder that is removed), and each measurement
runs in a process of its own: seconds from opening the set to the first batch of boxes, memory that is the process's own
(RssAnon) and memory of mapped files that the system can take back (RssFile), the time to look up a batch of 256 (ids,
sizes, boxes, shard, offset), and a resumption in the middle. --sorted adds what sorting and holding a permutation of
all would cost. Times are of the processor, user and system, on one thread: others may use the machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmssl.data.images import ImageLoader, open_images
from mmssl.data.permutation import sorted_words
from mmssl.data.shards import INDEX
from mmssl.data.shards.columns import write_header, write_index
from mmssl.data.shards.index import Shard
from mmssl.data.shards.listing import ShardRows
from mmssl.data.shards.order import WindowOrder

PER_SHARD, BLOCKS = 2500, 200
"""Samples of 100 kB in a shard of 256 MB."""
CHUNK = 2**20
STRIDE = 61_803_399
"""A multiplication by it, modulo the number of samples, stands for the random order in which they are stored: it has no
divisor in common with a power of ten."""
BATCH = 256
clock = time.process_time


def generate(folder: Path, count: int) -> int:
    """Write an index; returns its bytes."""
    write_index(folder, {"broken": np.zeros(0, np.uint8)}, [])
    index = folder / INDEX

    def column(name: str, dtype: str, *shape: int) -> np.ndarray:
        return np.lib.format.open_memmap(index / f"{name}.npy", "w+", np.dtype(dtype), shape)

    width = 19
    stored, shard, block = column("stored", "<u4", count), column("shard", "<u2", count), column("block", "<u4", count)
    size, crc, pixels = column("size", "<u4", count), column("crc", "<u4", count), column("pixels", "<u2", count, 2)
    names, starts = column("name", "|u1", count * width), column("name_start", "<u4", count + 1)
    starts[-1] = count * width
    for begin in range(0, count, CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, count))
        numbers = (rows * STRIDE + 12_345) % count
        stored[rows] = numbers
        shard[numbers], block[numbers] = rows // PER_SHARD, 1 + rows % PER_SHARD * BLOCKS
        size[rows], crc[rows] = 90_000 + rows % 10_000, rows % 2**32
        pixels[rows] = np.stack((300 + rows % 200, 400 + rows % 300), 1)
        starts[rows] = rows * width
        text = np.tile(np.frombuffer(b"00000/000000000.jpg", np.uint8), (len(rows), 1))
        for place, value in [
            *((4 - n, rows // 10_000 // 10**n) for n in range(5)),
            *((14 - n, rows // 10**n) for n in range(9)),
        ]:
            text[:, place] += (value % 10).astype(np.uint8)
        names[begin * width : (begin + len(rows)) * width] = text.reshape(-1)
    del stored, shard, block, size, crc, pixels, names, starts
    shards = [Shard(f"train-{n:05d}.tar", (1 + PER_SHARD * BLOCKS) * 512, "0") for n in range(-(-count // PER_SHARD))]
    split = {"rows": [0, count], "shards": [0, len(shards)], "stored": [0, count], "fingerprint": "generated",
             "starts": list(range(0, count, PER_SHARD)), "least": [300, 400]}  # fmt: skip
    header = {"plan": "generated", "kind": "images", "order": "shuffled", "seed": 1, "held_out": False,
              "splits": {"train": split}, "classes": [], "columns": None, "settings": {}}  # fmt: skip
    write_header(folder, header, shards)
    return sum(path.stat().st_size for path in index.iterdir())


def memory() -> dict[str, float]:
    """MB of this process: its own, and of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile")}


def look_up(loader: ImageLoader, step: int) -> float:
    """Seconds to know everything about a batch but its pixels."""
    begun = clock()
    places, epochs = loader.order.batch(step)
    reader = loader._reader()
    ids = reader.usable[places]
    reader.boxes(ids, epochs)
    rows = loader.source.index
    assert isinstance(rows, ShardRows)
    for number in ids.tolist():
        rows.index.place(number)
    return clock() - begun


def measure(folder: Path, order: str, start: int) -> dict[str, float]:
    """In a fresh process: opening, the first batch, 200 more, memory."""
    before = memory()
    begun = clock()
    source = open_images(folder, split="train")
    loader = ImageLoader(source, size=(224, 224), batch_size=BATCH, seed=0, cache="none")
    if order == "windows":
        assert isinstance(source.index, ShardRows)
        split = source.index.index.facts.splits["train"]
        stored = source.index.index.column("stored")
        loader.order = WindowOrder(stored, split.starts, 8, BATCH, 0)
    first = look_up(loader, start)
    ready = clock() - begun
    after_first = memory()
    times = [look_up(loader, start + step) for step in range(1, 201)]
    after = memory()
    return {
        "seconds to the first batch": ready, "of which its lookup": first,
        "ms a batch, median": 1e3 * statistics.median(times), "ms a batch, longest": 1e3 * max(times),
        "own MB at the first batch": after_first["RssAnon"] - before["RssAnon"],
        "own MB after 200": after["RssAnon"] - before["RssAnon"],
        "mapped MB after 200": after["RssFile"] - before["RssFile"],
    }  # fmt: skip


def measure_sorted(count: int) -> dict[str, float]:
    """What holding a permutation takes."""
    import resource

    before, begun = memory()["RssAnon"], clock()
    order = sorted_words(count, 0, 0)
    seconds = clock() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": seconds, "own MB held": order.nbytes / 1e6, "own MB at the peak": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, help="where the index is made; by default a temporary folder")
    parser.add_argument("--sorted", action="store_true", help="also sort and hold a permutation")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        order, start = arguments.measure
        found = measure_sorted(arguments.count) if order == "sorted" else measure(arguments.folder, order, int(start))
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        begun = time.perf_counter()
        size = generate(Path(name), arguments.count)
        print(
            f"index      {arguments.count:,} samples, {size / 1e9:.2f} GB, "
            f"{size / arguments.count:.1f} bytes a sample, made in {time.perf_counter() - begun:.0f} s"
        )
        middle = arguments.count // BATCH * 5 // 2
        cases = [("full", 0), ("full", middle), ("windows", 0), ("windows", middle)]
        for order, start in [*cases, *([("sorted", 0)] if arguments.sorted else [])]:
            command = [sys.executable, __file__, "--count", str(arguments.count), "--folder", name]
            said = subprocess.run(
                [*command, "--measure", order, str(start)], capture_output=True, text=True, check=True
            )
            print(f"{order} from step {start:,}")
            for key, value in json.loads(said.stdout.splitlines()[-1]).items():
                print(f"  {key:<28}{value:,.3f}")


if __name__ == "__main__":
    main()
