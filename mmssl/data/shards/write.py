"""Write a set of shards: bounded tar files, then the index, then the header that makes the folder a set.

Which sample goes where is planned from names and sizes before anything is read, so a run that was killed keeps its
finished shards. The bytes depend on the samples, the seed and the size of shards only: no time, owner or path is
written, so equal data give equal digests.
"""

import hashlib
import itertools
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from mmssl.data.permutation import sorted_words
from mmssl.data.shards import HEADER
from mmssl.data.shards.columns import once, replace_bytes, smallest, string_columns, write_header, write_index
from mmssl.data.shards.index import BLOCK, FORMAT, Kind, Shard, Split
from mmssl.data.skipped import Skipped
from mmssl.errors import UserError

_PLAN = "plan.json"
_ARCHIVE_END = b"\0" * 2 * BLOCK
_USTAR_LIMIT = 8 * 2**30
"""A USTAR header has eleven octal digits for the size; larger members get a PAX header."""

Read = Callable[[int], Iterator[bytes]]
"""The bytes of a sample of a split, by its number there, in pieces."""


@dataclass
class SplitData:
    """The samples of one split: its rows, in the order of their numbers."""

    name: str
    files: Sequence[str]
    sizes: Int64[np.ndarray, " sample"]
    """Bytes; 0 for one that is left out."""
    endings: Sequence[str]
    """Extensions of the members: ".jpg"."""
    read: Read
    fingerprint: str
    folders: Sequence[str] = ()
    labels: Sequence[Mapping[str, str]] = ()
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """More columns of the index, one entry a sample."""
    records: Sequence[str] = ()
    """JSON of what decoders know of each sample."""
    least: tuple[int, int] = (0, 0)

    @property
    def usable(self) -> Int64[np.ndarray, " usable"]:
        return np.flatnonzero(self.sizes > 0)


@dataclass(frozen=True)
class Settings:
    """How samples are stored."""

    shard_bytes: int
    order: Literal["shuffled", "given"]
    seed: int


def write_shards(
    out: Path,
    kind: Kind,
    splits: Sequence[SplitData],
    settings: Settings,
    *,
    held_out: bool,
    classes: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    skipped: Sequence[Skipped] = (),
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the set, or go on with one that was begun; returns the number of shards that were there already.

    Args:
        out: folder, made if missing.
        kind: of the samples.
        splits: their samples.
        settings: how they are stored.
        held_out, classes, label_columns, extra: for the header; ``extra`` becomes its ``settings``.
        texts: more columns of strings, not one a sample.
        skipped: what is left out, and why.
        progress: called with (bytes written, bytes).

    Raises:
        UserError: when the folder holds other shards, or a sample changed while it was read.
    """
    storage = [_stored(split, settings) for split in splits]
    cuts = [_cut(split.sizes[order], settings.shard_bytes) for split, order in zip(splits, storage, strict=True)]
    plan = _plan(kind, splits, settings)
    before = _begin(out, plan)
    if before == "whole":
        return sum(len(cut) - 1 for cut in cuts)
    total, done, kept, first_row = int(sum(split.sizes.sum() for split in splits)), 0, 0, 0
    shards: list[Shard] = []
    described: dict[str, Split] = {}
    columns: dict[str, list[np.ndarray]] = {"shard": [], "block": [], "crc": [], "stored": [], "size": []}
    for split, order, edges in zip(splits, storage, cuts, strict=True):
        count, first_shard = len(split.sizes), len(shards)
        shard, block, crc = (np.zeros(count, np.int64) for _ in range(3))
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            chosen = order[start:stop]
            file = f"{_file_name(split.name, len(described))}-{number:05d}.tar"
            written = _finished(out, file) if before == "begun" else None
            kept += written is not None
            written = written or _write_shard(out, file, split, chosen, first_row)
            shard[chosen] = len(shards)
            block[chosen], crc[chosen] = written["blocks"], written["crcs"]
            shards.append(Shard(file, written["bytes"], written["digest"]))
            done += int(split.sizes[chosen].sum())
            if progress is not None:
                progress(done, total)
        usable = split.usable
        places = np.searchsorted(usable, order)
        begun = sum(map(len, columns["stored"]))
        added = {"shard": shard, "block": block, "crc": crc, "stored": places, "size": split.sizes}
        for name, values in added.items():
            columns[name].append(values)
        described[split.name] = Split(
            (first_row, first_row + count), (first_shard, len(shards)), (begun, begun + len(usable)),
            tuple(edges[:-1]), split.fingerprint, split.least,
        )  # fmt: skip
        first_row += count
    arrays = {name: smallest(np.concatenate(parts)) for name, parts in columns.items()}
    arrays |= _describe(splits, classes)
    for name, strings in (texts or {}).items():
        arrays |= string_columns(name, strings)
    write_index(out, arrays, skipped)
    header = {
        "plan": plan, "kind": kind, "order": settings.order, "seed": settings.seed, "held_out": held_out,
        "splits": {name: asdict(split) for name, split in described.items()}, "classes": list(classes),
        "columns": None if label_columns is None else list(label_columns), "settings": dict(extra or {}),
    }  # fmt: skip
    write_header(out, header, shards)
    for path in (out / _PLAN, *(out / f"{shard.file}.json" for shard in shards)):
        path.unlink(missing_ok=True)
    return kept


def _file_name(split: str, number: int) -> str:
    """What the shards of a split are called: by its name where that can be part of a file's name."""
    return split if re.fullmatch("[A-Za-z0-9_]+", split) else f"split{number}"


def _stored(split: SplitData, settings: Settings) -> Int64[np.ndarray, " usable"]:
    """Numbers of the usable samples in the order in which they are stored."""
    usable = split.usable
    if settings.order == "given":
        return usable
    stream = int.from_bytes(hashlib.blake2b(split.name.encode(), digest_size=7).digest(), "little")
    return usable[sorted_words(len(usable), settings.seed, 0, stream)]


def _cut(sizes: Int64[np.ndarray, " usable"], most: int) -> list[int]:
    """Where shards begin and end in stored order: as many samples as fit, at least one."""
    padded = np.concatenate(([0], np.cumsum(BLOCK + -(-sizes // BLOCK) * BLOCK)))
    edges = [0]
    while edges[-1] < len(sizes):
        room = int(np.searchsorted(padded, padded[edges[-1]] + most - len(_ARCHIVE_END), side="right")) - 1
        edges.append(max(room, edges[-1] + 1))
    return edges


def _plan(kind: Kind, splits: Sequence[SplitData], settings: Settings) -> str:
    """Hash of everything that decides which bytes go where."""
    digest = hashlib.blake2b(json.dumps([FORMAT, kind, asdict(settings)]).encode(), digest_size=16)
    for split in splits:
        digest.update(f"\n{split.name}\0{split.fingerprint}\0".encode())
        digest.update(split.sizes.astype("<i8").tobytes())
        for file in split.files:
            digest.update(file.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _begin(out: Path, plan: str) -> Literal["new", "begun", "whole"]:
    """Make the folder; how far these very shards are. Raises UserError when it holds anything else."""
    out.mkdir(parents=True, exist_ok=True)
    for path, found in ((out / HEADER, "whole"), (out / _PLAN, "begun")):
        if path.is_file() and json.loads(path.read_bytes()).get("plan") == plan:
            return "whole" if found == "whole" else "begun"
    if any(path.name != f"{_PLAN}.partial" for path in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no shards of these data and settings: choose another --out")
    replace_bytes(out / _PLAN, json.dumps({"plan": plan}).encode())
    return "new"


def _finished(out: Path, file: str) -> dict[str, Any] | None:
    """What is known of a shard that an earlier run finished."""
    try:
        written = json.loads((out / f"{file}.json").read_bytes())
        return written if (out / file).stat().st_size == written["bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


def _write_shard(
    out: Path, file: str, split: SplitData, chosen: Int64[np.ndarray, " sample"], first_row: int
) -> dict[str, Any]:
    """One tar file; renamed when it is whole."""
    partial = out / f"{file}.partial"
    digest = hashlib.blake2b(digest_size=16)
    blocks, crcs, place = [], [], 0
    with partial.open("wb") as tar:

        def put(piece: bytes) -> None:
            nonlocal place
            tar.write(piece)
            digest.update(piece)
            place += len(piece)

        for number in chosen.tolist():
            size = int(split.sizes[number])
            put(tar_header(f"{first_row + number:012d}{split.endings[number]}", size))
            blocks.append(place // BLOCK)
            crc, begun = 0, place
            for piece in split.read(number):
                crc = zlib.crc32(piece, crc)
                put(piece)
            if place - begun != size:
                raise UserError(
                    f"{split.files[number]} has {place - begun:,} bytes now and had {size:,}: leave the data alone "
                    "while it is sharded, and start again"
                )
            put(b"\0" * (-size % BLOCK))
            crcs.append(crc)
        put(_ARCHIVE_END)
        tar.flush()
        os.fsync(tar.fileno())
    written = {"bytes": place, "digest": digest.hexdigest(), "blocks": blocks, "crcs": crcs}
    replace_bytes(out / f"{file}.json", json.dumps(written).encode())
    partial.replace(out / file)
    return written


def tar_header(name: str, size: int) -> bytes:
    """The header of a member: USTAR, or PAX where USTAR cannot say the size; without owner and time."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT if size < _USTAR_LIMIT else tarfile.PAX_FORMAT)


def _describe(splits: Sequence[SplitData], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of what readers want to know up front."""
    sizes = np.concatenate([split.sizes for split in splits])
    arrays = {"broken": smallest(np.flatnonzero(sizes == 0))}
    arrays |= string_columns("name", [file for split in splits for file in split.files])
    if classes:
        number = {folder: place for place, folder in enumerate(("", *classes))}
        arrays["folder"] = smallest([number[folder] for split in splits for folder in split.folders])
    if any(split.labels for split in splits):
        rows = [json.dumps(dict(row), ensure_ascii=False) for split in splits for row in split.labels]
        arrays |= once("row", "rows", rows)
    if any(split.records for split in splits):
        arrays |= once("header", "headers", [record for split in splits for record in split.records])
    for name in splits[0].columns:
        arrays[name] = smallest(np.concatenate([split.columns[name] for split in splits]))
    return arrays
