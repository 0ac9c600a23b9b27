"""Whether a path holds pictures, texts, recordings or videos, by the names of its files."""

import csv
import json
import tarfile
from pathlib import Path
from typing import Literal

from mmssl.data.audio.header import RECORDINGS, SOUND, VIDEO
from mmssl.data.images.open import IMAGES
from mmssl.data.shards.store import is_shards, open_index
from mmssl.data.stores import BROKEN_TAR, TABLES, is_tar, open_folder
from mmssl.data.text.files import is_text

Kind = Literal["images", "text", "audio", "video"]
_WORDS: dict[Kind, tuple[str, str]] = {
    "images": ("picture", "pictures"), "audio": ("recording", "recordings"), "text": ("file of text", "files of text"),
    "video": ("video", "videos"),
}  # fmt: skip
_LOOKED_AT = {"images": "images", "audio": "audio", "text": "text", "video": "videos"}
_FIRST = 1000
# files that go with a data set and are not data
_BESIDE = ("readme", "license", *TABLES)


def kind_of(data: str | Path) -> tuple[Kind, str]:
    """What most files are, and a sentence that says so.

    A .txt, .csv or .jsonl whose first line names a picture or recording, or has a column ``file``, is a list of them.
    What is missing or cannot be read counts as pictures, whose reader says what is wrong. Videos count as videos here;
    the recipes of recordings take their sound all the same.
    """
    if is_shards(data):
        kind = open_index(data).index.facts.kind
        return kind, f"{data} is a set of shards of {kind}"
    path = Path(data)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        kind = _dataset_kind(path)
        return kind, f"{data} is a Hugging Face dataset of {kind}"
    if (path / "clips.json").is_file():
        return "video", f"{data} is a cache of clips of videos"
    if path.is_file() and not is_tar(path):
        listed = _listed(path)
        if listed is None and is_text(path.name):
            return "text", f"{data} is a file of text"
        if _ends_in(listed or path.name, VIDEO):
            return "video", f"{data} is a video or a list of videos; --kind audio looks at their sound only"
        if RECORDINGS.wanted(listed or path.name):
            return "audio", f"{data} is a recording or a list of recordings"
        return "images", f"{data} is a picture or a list of pictures"
    names = [name for name in _names(path) if not Path(name).name.lower().startswith(_BESIDE)]
    counts: dict[Kind, int] = {
        "images": sum(map(IMAGES.wanted, names)),
        "audio": sum(_ends_in(name, SOUND) for name in names),
        "video": sum(_ends_in(name, VIDEO) for name in names),
        "text": sum(map(is_text, names)),
    }
    kind = max(counts, key=lambda name: counts[name])
    others = [name for name, count in counts.items() if count and name != kind]
    hint = f"; --kind {' or '.join(others)} looks at the others" if others else ""
    hint += "; --kind audio looks at their sound only" if kind == "video" else ""
    said = ", ".join(f"{count:,} {_WORDS[name][count > 1]}" for name, count in counts.items() if count) or "no files"
    return kind, f"{said}: looking at the {_LOOKED_AT[kind]}{hint}"


def _ends_in(name: str, extensions: frozenset[str]) -> bool:
    return Path(name).suffix.lower() in extensions


def _names(path: Path) -> list[str]:
    """Names of files in a folder, and the first thousand in each tar."""
    if is_tar(path):
        return _tar_names(path)
    if not path.is_dir():
        return []
    store = open_folder(path, IMAGES.wanted)
    tars = [path / name for name in store.others if is_tar(Path(name))]
    return [*store.names, *store.others, *(name for tar in tars for name in _tar_names(tar))]


def _tar_names(path: Path) -> list[str]:
    names: list[str] = []
    try:
        with tarfile.open(path, "r|*") as archive:
            for info in archive:
                names.append(info.name)
                if len(names) >= _FIRST:
                    break
    except (OSError, *BROKEN_TAR):
        return names
    return names


def _listed(path: Path) -> str | None:
    """The first file that a list names ("" when it has a column of files and no row); None for what is no list."""
    form = path.suffix.lower()
    if form not in (".txt", ".csv", ".jsonl"):
        return None
    try:
        with path.open("rb") as file:
            first, second = (file.readline(2**16).decode("utf-8-sig", "replace").strip() for _ in range(2))
    except OSError:
        return None
    if form == ".txt":
        return first if IMAGES.wanted(first) or RECORDINGS.wanted(first) else None
    try:
        header, row = (next(csv.reader([line]), []) for line in (first, second))
        record = dict(zip(header, row, strict=False)) if form == ".csv" else json.loads(first)
    except (ValueError, RecursionError, csv.Error):
        return None
    if form == ".csv" and "file" in header:
        return record.get("file", "")
    return str(record["file"]) if isinstance(record, dict) and "file" in record else None


def _dataset_kind(path: Path) -> Kind:
    for info in (path / "dataset_info.json", *sorted(path.glob("*/dataset_info.json"))):
        try:
            features = json.loads(info.read_text(encoding="utf-8")).get("features") or {}
        except (OSError, ValueError, RecursionError, AttributeError):
            continue
        types = {value.get("_type") for value in features.values() if isinstance(value, dict)}
        return "images" if "Image" in types else "audio" if "Audio" in types else "text"
    return "images"
