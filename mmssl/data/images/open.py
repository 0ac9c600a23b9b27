"""Open images wherever they are: folders, list files, tar files, Hugging Face image datasets.

    source = open_images("photos", split="train")
    source[3]          # {"id": 3, "image": uint8 [channel, height, width], "file": "2019/beach.jpg"}
    source.labels()    # class index of every image, class names

``data`` may be

- a folder, at any depth, with or without class folders;
- a tar file (plain, or .tar.gz / .tgz), or a folder that holds tar files and no images;
- a list: a .txt with one path a line, or a .csv with a ``file`` column; paths are relative to the list;
- a Hugging Face image dataset on disk (``Dataset.save_to_disk``; needs the ``datasets`` package);
- several of these, as a list.

A ``labels.csv`` beside or inside the data (columns ``file``, any labels, optionally ``split``) names classes and
splits. Otherwise the split is the top folder (train, val, test and their usual other names) and the class the folder
below it. Without a validation split 5 % of the training images are held out by a hash of their names
(:func:`hold_out`).
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmssl.data.images.decode import EXTENSIONS
from mmssl.data.images.source import Entry, ImageSource, Part, Skipped, write_skipped
from mmssl.data.images.stores import FileStore, TarStore, is_image, is_tar, open_folder
from mmssl.data.labels import SPLIT_NAMES, LabelTable, folder_classes, folder_splits
from mmssl.data.limits import Limits
from mmssl.errors import UserError

__all__ = ["ImageSource", "Skipped", "hold_out", "open_images", "write_skipped"]

HOLD_OUT_SHARE = 0.05
HOLD_OUT_MOST = 1024


def open_images(
    data: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    channels: int = 3,
    limits: Limits | None = None,
) -> ImageSource:
    """List the images of ``data`` (nothing is decoded yet).

    Args:
        data: as above.
        split: "train", "val", "test" or any name in the ``split`` column; None takes every image.
        channels: of every sample; see :mod:`mmssl.data.images.decode` for the conversions.
        limits: what one file may cost.

    Raises:
        UserError: when the data is missing, may not be read or holds no images, or has no such split.
    """
    given = [data] if isinstance(data, str | Path) else list(data)
    name = ", ".join(str(path) for path in given)
    parts = [part for path in given for part in _open_one(Path(path))]
    if len(parts) > 1:
        parts = _with_prefixes(parts)
    entries, not_images = _entries(parts)
    if not entries:
        others = f" (it holds {len(not_images)} other files, such as {not_images[0].file})" if not_images else ""
        known = " ".join(sorted(EXTENSIONS))
        raise UserError(f"{name} holds no images{others}: give a folder, tar or list of files ending in {known}")
    chosen, splits, held_out = _choose_split(entries, split, name)
    classes = sorted({entry.folder_class for entry in entries} - {""})
    return ImageSource(
        parts, chosen, name=name, channels=channels, split=split, splits=splits, held_out=held_out,
        classes=classes, not_images=not_images, limits=limits or Limits(),
    )  # fmt: skip


def _open_one(path: Path) -> list[Part]:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        top = sorted(os.listdir(path)) if is_folder else []
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path given as data") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): change its permissions") from None
    if not is_folder:
        return [_open_file(path)]
    if "dataset_dict.json" in top or {"dataset_info.json", "state.json"} <= set(top):
        from mmssl.data.images.huggingface import open_hugging_face

        return [open_hugging_face(path)]
    store = open_folder(path)
    tars = [path / name for name in top if is_tar(path / name) and not name.startswith(".")]
    if not store.names and tars:
        table = _find_table(path / "labels.csv")
        return [Part(TarStore(tar), f"{tar.name.split('.tar')[0]}/", table) for tar in tars]
    table = _find_table(path / "labels.csv")
    if table is None:
        outer = _find_table(path.resolve().parent / "labels.csv", path.resolve().name + "/")
        table = outer if outer is not None and any(outer.row(name) for name in store.names) else None
    return [Part(store, f"{path.resolve().name}/", table)]


def _open_file(path: Path) -> Part:
    if is_tar(path):
        tar = TarStore(path)
        inside = tar.read_text("labels.csv")
        table = LabelTable.from_csv(inside, f"{path}!labels.csv") if inside is not None else None
        return Part(tar, f"{path.name.split('.tar')[0]}/", table or _find_table(path.parent / "labels.csv"))
    if path.suffix.lower() in (".txt", ".csv"):
        return _open_list(path)
    if is_image(path.name):
        return Part(FileStore([path.name], [str(path)]), f"{path.resolve().parent.name}/", None)
    raise UserError(f"{path} is neither a folder, a tar, a list (.txt, .csv) nor an image: give one of these")


def _open_list(path: Path) -> Part:
    """A list file. Names that are repeated count once; a name that is no image is listed as such."""
    text = _read_text(path)
    table = None
    if path.suffix.lower() == ".csv":
        table = LabelTable.from_csv(text, str(path))
        listed = table.files
    else:
        listed = [Path(line.strip()).as_posix() for line in text.splitlines() if line.strip()]
    names = sorted({name for name in listed if is_image(name)})
    others = sorted({name for name in listed if not is_image(name)})
    store = FileStore(names, [str(path.parent / name) for name in names], others)
    return Part(store, f"{path.stem}/", table)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}): write it again as UTF-8") from None


def _find_table(path: Path, prefix: str = "") -> LabelTable | None:
    return LabelTable.from_csv(_read_text(path), str(path), prefix) if path.is_file() else None


def _with_prefixes(parts: list[Part]) -> list[Part]:
    """Tell the names of several stores apart by the name of each, numbered where that is not enough."""
    taken: Counter[str] = Counter()
    named = []
    for part in parts:
        taken[part.prefix] += 1
        count = taken[part.prefix]
        named.append(Part(part.store, part.prefix if count == 1 else f"{part.prefix[:-1]}-{count}/", part.table))
    return named


def _entries(parts: list[Part]) -> tuple[list[Entry], list[Skipped]]:
    """All images in the order of their names, and the files that are none."""
    entries, not_images = [], []
    for number, part in enumerate(parts):
        names, prefix = part.store.names, part.prefix if len(parts) > 1 else ""
        by_folder = folder_splits(names)
        splits = [part.table.split(name) for name in names] if part.table and part.table.has_split else by_folder
        classes = folder_classes(names, by_folder)
        entries.extend(
            Entry(number, index, prefix + name, splits[index], classes[index]) for index, name in enumerate(names)
        )
        not_images.extend(
            Skipped(prefix + name, f"'{Path(name).suffix}' is not an image extension", "not an image")
            for name in part.store.others
            if name != "labels.csv"
        )
    return sorted(entries, key=lambda entry: entry.file), not_images


def _choose_split(entries: list[Entry], split: str | None, name: str) -> tuple[list[Entry], dict[str, int], bool]:
    """The images of a split, the number of images of each split there is, and whether "val" is a hold-out of ours."""
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
