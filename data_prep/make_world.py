"""Generate the small labelled world that recipes, tests and lessons learn from: coloured shapes on varied backgrounds.

    python data_prep/make_world.py --out world

writes, in a few seconds on two cores,

    world/images/train/00000.png ...    numbers are those of the scenes, so that all modalities share them
    world/images/val/00004.png ...
    world/labels.csv                    file, shape, colour, size, place, split
    world/world.json                    the settings

The same settings give the same bytes, whatever the number of workers.
"""

import csv
import io
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from paint import paint
from scenes import VALIDATION_EVERY, Scene, draw_scene, draw_scenes

from mmssl.errors import UserError, one_sentence_errors

VERSION = 1
"""Raised whenever the same settings begin to give other pictures."""
CHUNK = 64
"""Scenes painted together: their maps stay in the processor's cache."""
CONTENT = ("images", "labels.csv", "world.json")
LABELS: tuple[str, ...] = ("file", "shape", "colour", "size", "place", "split")


@dataclass(frozen=True)
class WorldConfig:
    """The generated world."""

    out: Path = Path("world")
    """Folder to write."""
    count: int = 4000
    """Number of scenes; every fifth is for validation."""
    size: int = 64
    """Height and width of the pictures in pixels."""
    seed: int = 0
    """Another seed, another world."""
    workers: int = 2
    """Processes; the pictures do not depend on it."""
    overwrite: bool = False
    """Replace a world of other settings."""

    def __post_init__(self) -> None:
        if self.count < VALIDATION_EVERY:
            raise UserError(
                f"--count must be at least {VALIDATION_EVERY}, got {self.count}: fewer leave no validation set"
            )
        if not 16 <= self.size <= 1024:
            raise UserError(f"--size must be between 16 and 1024 pixels, got {self.size}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed must be at least 0 and below 2^63, got {self.seed}")
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, got {self.workers}")

    def settings(self) -> dict[str, int]:
        """What decides the content, as world.json keeps it."""
        return {"version": VERSION, "count": self.count, "size": self.size, "seed": self.seed}


def make_world(config: WorldConfig) -> bool:
    """Write the world to ``config.out``; returns False when it was there already.

    It is made in a neighbouring folder and moved into place when complete, so an interrupted run leaves no half world.
    Raises UserError where the folder holds anything else.
    """
    if _is_there(config):
        return False
    partial = config.out.absolute().with_name(config.out.absolute().name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split in ("train", "val"):
        (partial / "images" / split).mkdir(parents=True)
    _write_images(partial, config)
    _write_labels(partial / "labels.csv", draw_scenes(config.count, config.seed))
    (partial / "world.json").write_text(json.dumps(config.settings(), indent=2) + "\n", encoding="utf-8")
    if config.out.exists():
        shutil.rmtree(config.out)
    partial.rename(config.out)
    return True


def image_file(scene: Scene) -> str:
    """Where a scene's picture is, from the world's folder."""
    return f"images/{scene.split}/{scene.id:05d}.png"


def _is_there(config: WorldConfig) -> bool:
    """True for the same world; False for a free place, or one that may be replaced; UserError otherwise."""
    if not config.out.exists():
        return False
    if not config.out.is_dir():
        raise UserError(f"{config.out} is a file: choose another --out")
    if not any(config.out.iterdir()):
        return False
    try:
        found = json.loads((config.out / "world.json").read_text(encoding="utf-8"))
        found = {key: found[key] for key in config.settings()}
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{config.out} holds files but no generated world: choose another --out") from None
    if found == config.settings():
        return True
    strangers = sorted(path.name for path in config.out.iterdir() if path.name not in CONTENT)
    if config.overwrite and strangers:
        raise UserError(
            f"{config.out} holds other files too ({strangers[0]}): move them away before replacing the world"
        )
    if config.overwrite:
        return False
    wanted = config.settings()
    changes = ", ".join(f"{key} {found[key]} -> {wanted[key]}" for key in wanted if found[key] != wanted[key])
    raise UserError(f"{config.out} holds another world ({changes}): choose another --out, or add --overwrite")


def _write_images(folder: Path, config: WorldConfig) -> None:
    chunks = list(_chunks(config.count))
    jobs = [(folder, start, stop, config.seed, config.size) for start, stop in chunks]
    workers = min(config.workers, len(jobs))
    if workers == 1:
        for job in jobs:
            write_chunk(job)
        return
    # spawn: children start clean, with no copy of a parent's threads
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(write_chunk, jobs))


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)


def write_chunk(job: tuple[Path, int, int, int, int]) -> None:
    """Paint scenes ``start..stop`` of a world and write their files; a job of the process pool."""
    from PIL import Image

    folder, start, stop, seed, size = job
    scenes = [draw_scene(index, seed) for index in range(start, stop)]
    for scene, pixels in zip(scenes, paint(scenes, size), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        (folder / image_file(scene)).write_bytes(buffer.getbuffer())


def _write_labels(file: Path, scenes: list[Scene]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, LABELS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(scene) | {"file": image_file(scene)} for scene in scenes)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    import tyro

    with one_sentence_errors():
        start = time.perf_counter()
        config = tyro.cli(WorldConfig, args=arguments, description=__doc__)
        written = make_world(config)
        took = f"{config.count} scenes in {time.perf_counter() - start:.1f} s" if written else "already there"
        print(f"{config.out}: {took}")


if __name__ == "__main__":
    main()
