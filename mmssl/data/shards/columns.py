"""Columns of an index, and the header: written to a folder, equal bytes for equal values."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.shards import HEADER, INDEX
from mmssl.data.shards.index import FORMAT, SKIPPED, File, Shard
from mmssl.data.skipped import Skipped

_CHUNK = 2**20


def smallest(values: np.ndarray | Sequence[int]) -> np.ndarray:
    """The values as the smallest unsigned little-endian type that holds them."""
    array = np.asarray(values)
    dtype = np.min_scalar_type(int(array.max())) if array.size else np.dtype(np.uint8)
    return array.astype(dtype.newbyteorder("<"))


def once(column: str, texts: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    """Strings that repeat, each stored once, and which one each row has."""
    number = {string: place for place, string in enumerate(dict.fromkeys(strings))}
    return {column: smallest([number[string] for string in strings]), **string_columns(texts, list(number))}


def string_columns(name: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    """A blob of UTF-8, and where each string begins."""
    encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return {name: np.frombuffer(b"".join(encoded), np.uint8), f"{name}_start": smallest(starts)}


def write_index(out: Path, arrays: Mapping[str, np.ndarray], skipped: Sequence[Skipped]) -> None:
    """The columns, and the list of what is left out."""
    folder = out / INDEX
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    rows = dict.fromkeys(skipped)
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    (folder / SKIPPED).write_text(text, encoding="utf-8")


def write_header(out: Path, header: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """shards.json, from what lies in index/; replaced atomically."""
    files = {path.name: asdict(_file(path)) for path in sorted((out / INDEX).iterdir())}
    listed = [[shard.file, shard.bytes, shard.digest] for shard in shards]
    said = {"format": FORMAT, **header, "index": files, "shards": listed}
    replace_bytes(out / HEADER, (json.dumps(said) + "\n").encode())


def _file(path: Path) -> File:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return File(path.stat().st_size, digest.hexdigest())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file; readers see the old one or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
