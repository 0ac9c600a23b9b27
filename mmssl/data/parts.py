"""Which files there are and what is known of each: folders, list files, tar files, several of them, and their splits.

The same for every modality whose samples are files; what differs is which names are wanted.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from mmssl.data.labels import SPLIT_NAMES, LabelTable, folder_classes, folder_splits
from mmssl.data.limits import MediaError
from mmssl.data.skipped import Skipped
from mmssl.data.stores import TABLES, FileStore, Store, TarStore, is_tar, open_folder
from mmssl.errors import UserError

HOLD_OUT_SHARE = 0.05
HOLD_OUT_MOST = 1024


@dataclass(frozen=True)
class Part:
    """One store, with what stands before its names when several were opened, and its labels."""

    store: Store
    prefix: str
    table: LabelTable | None


@dataclass(frozen=True)
class Entry:
    """A file: where it lies, its name among all, and what its place or its table says of it."""

    part: int
    index: int
    file: str
    split: str | None
    folder_class: str


@dataclass(frozen=True)
class Medium:
    """What is looked for."""

    one: str
    """"an image", for messages."""
    many: str
    """"images"."""
    extensions: frozenset[str]
    """Lower case, with the dot."""
    feature: Literal["Image", "Audio"]
    """What such a column of a Hugging Face dataset is called."""

    def wanted(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self.extensions


@runtime_checkable
class Indexed(Protocol):
    """What the index of a set of shards (:mod:`mmssl.data.shards`) knows, so that files need not be opened."""

    @property
    def files(self) -> Sequence[str]:
        """Names, in the order of numbers."""
        ...

    def subset(self, chosen: Sequence[int]) -> "Indexed":
        """Some of them, numbered anew."""
        ...

    def column(self, name: str) -> np.ndarray | None:
        """Facts by file; None where they are not known."""
        ...

    @property
    def least(self) -> tuple[int, int] | None:
        """Smallest height and width of pictures; None where they are not known."""
        ...

    def records(self) -> list[Any] | None:
        """What decoders know of every file, as lists; None where it is not known."""
        ...

    def failures(self) -> dict[int, MediaError]:
        """Files that could not be used, by number."""
        ...

    def sequence(self) -> Int64[np.ndarray, " file"] | range:
        """The numbers in an order in which reading all files is fast."""
        ...

    def fingerprint(self) -> str | None:
        """See :meth:`~mmssl.data.source.FileSource.fingerprint`; None where it is not known."""
        ...


@dataclass(frozen=True)
class Listing:
    """The files of one split, and what else was seen on the way."""

    parts: list[Part]
    entries: Sequence[Entry]
    name: str
    split: str | None
    splits: dict[str, int]
    """Number of files of every split that can be asked for."""
    held_out: bool
    """Whether "val" is cut from the training files."""
    classes: list[str]
    """Names of the class folders, of all splits."""
    skipped: list[Skipped]
    """Files of other kinds."""
    index: Indexed | None = None
    """Of a set of shards."""


def media_below(folder: Path, medium: Medium) -> list[Path]:
    """The files of a medium in a folder, at any depth. Raises UserError where there is none."""
    inside = [folder / name for name in open_folder(folder, medium.wanted).names]
    if not inside:
        known = " ".join(sorted(medium.extensions))
        raise UserError(f"{folder} holds no {medium.many}: give files, or folders with files ending in {known}")
    return inside


def list_files(data: str | Path | Sequence[str | Path], split: str | None, medium: Medium) -> Listing:
    """The files of ``data`` (nothing is decoded).

    Args:
        data: a folder, tar file, list file, Hugging Face dataset or file, or several of these; or a set of shards.
        split: "train", "val", "test" or any name in a ``split`` column; None takes every file.
        medium: what is looked for.

    Raises:
        UserError: when the data is missing, may not be read or holds nothing that is wanted, or has no such split.
    """
    from mmssl.data.shards.listing import list_shards
    from mmssl.data.shards.store import is_shards

    given = [data] if isinstance(data, str | Path) else list(data)
    name = ", ".join(str(path) for path in given)
    if any(map(is_shards, given)):
        if len(given) > 1:
            raise UserError(f"{name}: a set of shards is read alone: shard all of the data together, or train on one")
        return list_shards(given[0], split, medium.many)
    parts = [part for path in given for part in _open_one(Path(path), medium)]
    if len(parts) > 1:
        parts = _with_prefixes(parts)
    return list_parts(parts, split, medium, name)


def list_parts(parts: list[Part], split: str | None, medium: Medium, name: str) -> Listing:
    """The same for stores that are open already; ``name`` is what the user called them."""
    entries, others = _entries(parts, medium)
    if not entries:
        seen = f" (it holds {len(others)} other files, such as {others[0].file})" if others else ""
        known = " ".join(sorted(medium.extensions))
        raise UserError(f"{name} holds no {medium.many}{seen}: give a folder, tar or list of files ending in {known}")
    chosen, splits, held_out = _choose_split(entries, split, name)
    classes = sorted({entry.folder_class for entry in entries} - {""})
    return Listing(parts, chosen, name, split, splits, held_out, classes, others)


def _open_one(path: Path, medium: Medium) -> list[Part]:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        top = sorted(os.listdir(path)) if is_folder else []
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path given as data") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): change its permissions") from None
    if not is_folder:
        return [_open_file(path, medium)]
    if "dataset_dict.json" in top or {"dataset_info.json", "state.json"} <= set(top):
        from mmssl.data.huggingface import open_hugging_face

        return [open_hugging_face(path, medium.feature)]
    store = open_folder(path, medium.wanted)
    tars = [path / name for name in top if is_tar(path / name) and not name.startswith(".")]
    if not store.names and tars:
        table = _find_table(path)
        return [Part(TarStore(tar, medium.wanted), f"{tar.name.split('.tar')[0]}/", table) for tar in tars]
    table = _find_table(path)
    if table is None:
        outer = _find_table(path.resolve().parent, path.resolve().name + "/")
        table = outer if outer is not None and any(outer.row(name) for name in store.names) else None
    return [Part(store, f"{path.resolve().name}/", table)]


def _open_file(path: Path, medium: Medium) -> Part:
    if is_tar(path):
        tar = TarStore(path, medium.wanted)
        inside = ((name, tar.read_text(name)) for name in TABLES)
        tables = [LabelTable.parse(text, f"{path}!{name}") for name, text in inside if text is not None]
        return Part(tar, f"{path.name.split('.tar')[0]}/", tables[0] if tables else _find_table(path.parent))
    if path.suffix.lower() in (".txt", ".csv", ".jsonl"):
        return _open_list(path, medium)
    if medium.wanted(path.name):
        return Part(FileStore([path.name], [str(path)]), f"{path.resolve().parent.name}/", None)
    raise UserError(
        f"{path} is neither a folder, a tar, a list (.txt, .csv, .jsonl) nor {medium.one}: give one of these"
    )


def _open_list(path: Path, medium: Medium) -> Part:
    """A list file. Names that are repeated count once; a name of another kind is listed as such."""
    text = _read_text(path)
    table = None
    if path.suffix.lower() != ".txt":
        table = LabelTable.parse(text, str(path))
        listed = table.files
    else:
        listed = [Path(line.strip()).as_posix() for line in text.splitlines() if line.strip()]
    names = sorted({name for name in listed if medium.wanted(name)})
    others = sorted({name for name in listed if not medium.wanted(name)})
    store = FileStore(names, [str(path.parent / name) for name in names], others)
    return Part(store, f"{path.stem}/", table)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}): write it again as UTF-8") from None


def _find_table(folder: Path, prefix: str = "") -> LabelTable | None:
    """What a labels.csv or a manifest.jsonl in a folder says; None without one.

    Other programs write a manifest.jsonl of other things too: one that does not speak of a ``file`` is not ours.
    """
    for path in (folder / name for name in TABLES):
        text = _read_text(path) if path.is_file() else ""
        if text and (path.suffix == ".csv" or '"file"' in text.split("\n", 1)[0]):
            return LabelTable.parse(text, str(path), prefix)
    return None


def _with_prefixes(parts: list[Part]) -> list[Part]:
    """Tell the names of several stores apart by the name of each, numbered where that is not enough."""
    taken: Counter[str] = Counter()
    named = []
    for part in parts:
        taken[part.prefix] += 1
        count = taken[part.prefix]
        named.append(Part(part.store, part.prefix if count == 1 else f"{part.prefix[:-1]}-{count}/", part.table))
    return named


def _entries(parts: list[Part], medium: Medium) -> tuple[list[Entry], list[Skipped]]:
    """All wanted files in the order of their names, and those of other kinds."""
    entries, others = [], []
    for number, part in enumerate(parts):
        names, prefix = part.store.names, part.prefix if len(parts) > 1 else ""
        by_folder = folder_splits(names)
        splits = [part.table.split(name) for name in names] if part.table and part.table.has_split else by_folder
        classes = folder_classes(names, by_folder)
        entries.extend(
            Entry(number, index, prefix + name, splits[index], classes[index]) for index, name in enumerate(names)
        )
        others.extend(
            Skipped(prefix + name, f"'{Path(name).suffix}' is not {medium.one} extension", f"not {medium.one}")
            for name in part.store.others
            if name not in TABLES
        )
    return sorted(entries, key=lambda entry: entry.file), others


def _choose_split(entries: list[Entry], split: str | None, name: str) -> tuple[list[Entry], dict[str, int], bool]:
    """The files of a split, the number of files of each split there is, and whether "val" is a hold-out of ours."""
    groups: dict[str | None, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.split, []).append(entry)
    train_key = "train" if "train" in groups else None
    held_out = "val" not in groups and train_key in groups and len(groups[train_key]) > 1
    if held_out:
        pool = groups.pop(train_key)
        held = hold_out([entry.file for entry in pool])
        groups["train"] = [entry for entry, out in zip(pool, held, strict=True) if not out]
        groups["val"] = [entry for entry, out in zip(pool, held, strict=True) if out]
    elif train_key in groups and train_key is None:
        groups["train"] = groups.pop(None)
    splits = {key: len(group) for key, group in groups.items() if key is not None}
    if split is None:
        return entries, splits, held_out
    wanted = SPLIT_NAMES.get(split.lower(), split)
    if wanted not in splits:
        raise UserError(f"{name} has no split '{split}': choose one of {', '.join(sorted(splits))}")
    return groups[wanted], splits, held_out


def hold_out(files: Sequence[str]) -> list[bool]:
    """Which files to keep for validation: 5 % of them, but at most about 1024 and at least one.

    A file is held out when the hash of its name lies below a threshold, so adding files moves none of the others. When
    5 % would be more than 1024, the threshold falls as files are added: some held-out files go to training, none the
    other way.
    """
    scores = [
        int.from_bytes(hashlib.blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
        for file in files
    ]
    threshold = min(HOLD_OUT_SHARE, HOLD_OUT_MOST / max(len(files), 1)) * 2.0**64
    held = [score < threshold for score in scores]
    if files and not any(held):
        held[scores.index(min(scores))] = True
    return held
