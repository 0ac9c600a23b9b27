"""Generate the small labelled world that recipes, tests and lessons learn from: coloured shapes on varied backgrounds.

    python data_prep/make_world.py --out world

writes, in a few seconds on two cores,

    world/images/train/00000.png ...    numbers are those of the scenes, so that all modalities share them
    world/images/val/00004.png ...
    world/labels.csv                    file, shape, colour, size, place, split
    world/world.json                    the settings

and with ``--modalities images captions speech faces`` the same scenes in words, spoken, and said by a talking face:

    world/captions/train.jsonl, val.jsonl    text, id, shape, colour, size, place, split
    world/speech/train/00000.wav ...         16 kHz, eight voices
    world/speech/manifest.jsonl              file, the labels, speaker, text, words and phones with their times, split
    world/faces/train/00000.mp4 ...          H.264 and AAC, 25 frames a second; both begin at 0
    world/faces/manifest.jsonl               the same, and fps, frames, the boxes of face and mouth (top, left, height,
                                             width in pixels), the opening of the mouth and of the eyes at each frame

Each folder is what its reader wants as data. The same settings give the same bytes on one machine, whatever the number
of workers.
"""

import csv
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

from espeak import require_espeak
from modalities import (
    FOLDER_OF_FILES,
    Modality,
    Row,
    Synthesizer,
    caption_row,
    file_of,
    say,
    write_face,
    write_images,
    write_speech,
)
from scenes import VALIDATION_EVERY, Scene, draw_scene, draw_scenes

from mmssl.errors import UserError, one_sentence_errors
from mmssl.terminal import tell

VERSION = 1
"""Raised whenever the same settings begin to give other pictures."""
CHUNK = 64
"""Scenes painted together: their maps stay in the processor's cache."""
ADDED = {"modalities": ["images"], "face_size": None, "synthesizer": None}
"""Settings that a world of pictures alone does not write down."""
CONTENT = ("images", "captions", "speech", "faces", "labels.csv", "world.json")
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
    modalities: tuple[Modality, ...] = ("images",)
    """What is written of each scene: images, captions, speech, faces."""
    face_size: int = 96
    """Height and width of the talking faces in pixels, an even number."""
    synthesizer: Synthesizer = "formants"
    """Who speaks: formants is built in and knows the time of every phone; espeak-ng is a program that must be on the
    PATH, and knows the times of words only."""
    workers: int = 2
    """Processes; the files do not depend on it."""
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
        if not self.modalities:
            raise UserError("--modalities is empty: choose some of images, captions, speech, faces")
        if not 32 <= self.face_size <= 512 or self.face_size % 2:
            raise UserError(f"--face-size must be an even number from 32 to 512 pixels, got {self.face_size}")
        if "faces" in self.modalities and self.synthesizer != "formants":
            raise UserError(
                f"faces need the times of phones, which {self.synthesizer} does not tell: leave them out of "
                "--modalities, or --synthesizer at formants"
            )

    def settings(self) -> dict[str, Any]:
        """What decides the content, as world.json keeps it."""
        basic = {"version": VERSION, "count": self.count, "size": self.size, "seed": self.seed}
        added = {
            "modalities": sorted(set(self.modalities), key=get_args(Modality).index),
            "face_size": self.face_size if "faces" in self.modalities else None,
            "synthesizer": self.synthesizer if {"speech", "faces"} & set(self.modalities) else None,
        }
        return basic | {key: value for key, value in added.items() if value != ADDED[key]}


def make_world(config: WorldConfig) -> bool:
    """Write the world to ``config.out``; returns False when it was there already.

    It is made in a neighbouring folder and moved into place when complete, so an interrupted run leaves no half world.
    Raises UserError where the folder holds anything else.
    """
    if _is_there(config):
        return False
    if config.synthesizer == "espeak-ng" and "speech" in config.modalities:
        require_espeak()
    partial = config.out.absolute().with_name(config.out.absolute().name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for modality in config.modalities:
        for split in ("train", "val") if modality in FOLDER_OF_FILES else ("",):
            (partial / modality / split).mkdir(parents=True, exist_ok=True)
    rows = _write_scenes(partial, config)
    for modality in ("speech", "faces"):
        if modality in config.modalities:
            _write_rows(partial / modality / "manifest.jsonl", rows[modality])
    if "captions" in config.modalities:
        for split in ("train", "val"):
            chosen = [row for row in rows["captions"] if row["split"] == split]
            _write_rows(partial / "captions" / f"{split}.jsonl", chosen)
    if "images" in config.modalities:
        _write_labels(partial / "labels.csv", draw_scenes(config.count, config.seed))
    (partial / "world.json").write_text(json.dumps(config.settings(), indent=2) + "\n", encoding="utf-8")
    if config.out.exists():
        shutil.rmtree(config.out)
    partial.rename(config.out)
    return True


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
        found = {key: (ADDED | found)[key] for key in ADDED | config.settings()}
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{config.out} holds files but no generated world: choose another --out") from None
    wanted = ADDED | config.settings()
    if found == wanted:
        return True
    strangers = sorted(path.name for path in config.out.iterdir() if path.name not in CONTENT)
    if config.overwrite and strangers:
        raise UserError(
            f"{config.out} holds other files too ({strangers[0]}): move them away before replacing the world"
        )
    if config.overwrite:
        return False
    changes = ", ".join(
        f"{key} {_said(found[key])} -> {_said(wanted[key])}" for key in wanted if found[key] != wanted[key]
    )
    raise UserError(f"{config.out} holds another world ({changes}): choose another --out, or add --overwrite")


def _said(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _write_scenes(folder: Path, config: WorldConfig) -> dict[str, list[Row]]:
    """All files of scenes; returns the rows of the tables by modality, in the order of scenes."""
    jobs = [(folder, start, stop, config) for start, stop in _chunks(config.count)]
    workers = min(config.workers, len(jobs))
    if workers == 1:
        return _joined(map(write_chunk, jobs))
    # spawn: children start clean, with no copy of a parent's threads
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return _joined(pool.map(write_chunk, jobs))
    except BrokenProcessPool:
        raise UserError("a worker process was killed: is memory short? Give fewer --workers and start again") from None


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)


def _joined(parts: Iterable[dict[str, list[Row]]]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {"captions": [], "speech": [], "faces": []}
    for part in parts:
        for modality, added in part.items():
            rows[modality] += added
    return rows


def write_chunk(job: tuple[Path, int, int, WorldConfig]) -> dict[str, list[Row]]:
    """Write the files of scenes ``start..stop`` and return their rows; a job of the process pool."""
    folder, start, stop, config = job
    scenes = [draw_scene(index, config.seed) for index in range(start, stop)]
    rows: dict[str, list[Row]] = {}
    if "images" in config.modalities:
        write_images(folder / "images", scenes, config.size)
    if "captions" in config.modalities:
        rows["captions"] = [caption_row(scene, config.seed) for scene in scenes]
    heard = {"speech", "faces"} & set(config.modalities)
    rows |= {modality: [] for modality in sorted(heard)}
    for scene in scenes if heard else ():
        said = say(scene, config.seed, config.synthesizer)
        if "speech" in heard:
            rows["speech"].append(write_speech(folder / "speech", scene, said))
        if "faces" in heard:
            rows["faces"].append(write_face(folder / "faces", scene, said, config.seed, config.face_size))
    return rows


def _write_rows(file: Path, rows: list[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_labels(file: Path, scenes: list[Scene]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, LABELS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(scene) | {"file": f"images/{file_of(scene, 'images')}"} for scene in scenes)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    import tyro

    with one_sentence_errors():
        start = time.perf_counter()
        config = tyro.cli(WorldConfig, args=arguments, description=__doc__)
        written = make_world(config)
        took = f"{config.count} scenes in {time.perf_counter() - start:.1f} s" if written else "already there"
        tell(f"{config.out}: {took}")


if __name__ == "__main__":
    main()
