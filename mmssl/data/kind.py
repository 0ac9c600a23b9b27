"""Whether a path holds pictures or texts, by the names of its files."""

import csv
import json
import tarfile
from pathlib import Path
from typing import Literal

from mmssl.data.images.open import IMAGES
from mmssl.data.stores import is_tar, open_folder
from mmssl.data.text.files import BROKEN, is_text

Kind = Literal["images", "text"]
_FIRST = 1000
# files that go with a data set and are not data
_BESIDE = ("readme", "license", "labels.csv")


def kind_of(data: str | Path) -> tuple[Kind, str]:
    """What most files are, and a sentence that says so.

    A .txt or .csv whose first line names an image (or has a column ``file``) is a list of pictures. What is missing or
    cannot be read counts as pictures, whose reader says what is wrong.
    """
    path = Path(data)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        kind: Kind = "images" if _has_images(path) else "text"
        return kind, f"{data} is a Hugging Face dataset of {kind}"
    if path.is_file() and not is_tar(path):
        if is_text(path.name) and not _is_list(path):
            return "text", f"{data} is a file of text"
        return "images", f"{data} is a picture or a list of pictures"
    names = [name for name in _names(path) if not Path(name).name.lower().startswith(_BESIDE)]
    pictures = sum(map(IMAGES.wanted, names))
    texts = sum(map(is_text, names))
    kind = "text" if texts > pictures else "images"
    other = "images" if kind == "text" else "text"
    hint = f"; --kind {other} looks at the others" if min(pictures, texts) else ""
    return kind, f"{pictures:,} pictures and {texts:,} files of text: looking at the {kind}{hint}"


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
    except BROKEN:
        return names
    return names


def _is_list(path: Path) -> bool:
    """Whether a file lists pictures."""
    if path.suffix.lower() not in (".txt", ".csv"):
        return False
    try:
        with path.open("rb") as file:
            first = file.readline(2**16).decode("utf-8-sig", "replace").strip()
    except OSError:
        return False
    return IMAGES.wanted(first) if path.suffix.lower() == ".txt" else "file" in next(csv.reader([first]), [])


def _has_images(path: Path) -> bool:
    for info in (path / "dataset_info.json", *sorted(path.glob("*/dataset_info.json"))):
        try:
            features = json.loads(info.read_text(encoding="utf-8")).get("features") or {}
        except (OSError, ValueError, AttributeError):
            continue
        return any(isinstance(value, dict) and value.get("_type") == "Image" for value in features.values())
    return True
