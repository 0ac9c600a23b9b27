"""Put a data set into tar shards with an index, for disks it does not fit and for stores across a network.

    python data_prep/shard.py --data photos --out photos_sharded

writes

    photos_sharded/shards.json          what there is; written last, so that a folder with it is whole
    photos_sharded/index/*.npy          where each sample lies, names, labels, splits, sizes of pictures ...
    photos_sharded/index/skipped.jsonl  files that are left out, and why
    photos_sharded/train-00000.tar ...  the samples as they are, in random order unless --order given

and `--data photos_sharded`, or the URL it is copied to (`--data s3://bucket/photos_sharded`), then stands for the
data: samples keep their numbers, and so their masks and crops. Pictures, recordings, videos and texts are told apart by
their files. Stopped, it goes on where it was; the same data, seed and shard size give the same bytes.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import tyro

from mmssl.data.audio import open_audio
from mmssl.data.audio.check import HARMLESS, check_recordings
from mmssl.data.audio.header import Header
from mmssl.data.images import ImageSource, open_images
from mmssl.data.images.check import check_images
from mmssl.data.kind import Kind, kind_of
from mmssl.data.limits import MediaError, guarded
from mmssl.data.media import open_media, pictures_of
from mmssl.data.pool import map_files
from mmssl.data.shards.write import Settings, SplitData, write_shards
from mmssl.data.skipped import MAX_SKIPPED_SHARE, Skipped, print_skipped
from mmssl.data.source import FileSource
from mmssl.data.text import open_texts
from mmssl.data.text.source import TextSource
from mmssl.data.video import open_videos
from mmssl.errors import UserError, one_sentence_errors
from mmssl.terminal import tell
from mmssl.training.progress import LINE_SECONDS

_PIECE = 2**22
_OPEN_SECONDS = 20.0
"""To open a video."""


@dataclass(frozen=True)
class ShardConfig:
    """Flags."""

    data: tuple[str, ...]
    """Folders, lists, tar files or Hugging Face data sets of pictures, recordings, videos or texts."""
    out: Path
    """Folder to write, or to go on with."""
    kind: Literal["auto", "images", "text", "audio", "video"] = "auto"
    """What to take where the data hold several kinds."""
    shard_megabytes: float = 256.0
    """Size of a shard at most; a larger sample has one of its own."""
    order: Literal["auto", "shuffled", "given"] = "auto"
    """shuffled: at random, so that any shard is a random part. given: by name. auto: texts as given, which are read
    once in order, and all else shuffled."""
    seed: int = 0
    """Of the random order."""
    channels: int = 3
    """Pictures: channels to check them with."""
    documents: Literal["auto", "file", "line", "block"] = "auto"
    """Texts: where a document ends."""
    text_column: str = "text"
    """Texts: column or field that holds the text in tables."""
    workers: int = 2
    """Processes that check samples; each is killed and its file left out when it hangs."""

    def __post_init__(self) -> None:
        if not self.shard_megabytes > 0:
            raise UserError(f"--shard-megabytes {self.shard_megabytes:g} is impossible: give a size, such as 256")
        if self.workers < 0:
            raise UserError(f"--workers {self.workers} is impossible: give 0 or more processes")


@dataclass
class Contents:
    """Everything that goes into the shards."""

    splits: list[SplitData]
    held_out: bool
    classes: list[str] = field(default_factory=list)
    label_columns: list[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def shard(config: ShardConfig) -> Path:
    """Write the shards; returns their folder."""
    kind: Kind = config.kind if config.kind != "auto" else kind_of(config.data[0])[0]
    if kind == "text" and config.order == "shuffled":
        raise UserError("--order shuffled is not for texts, which are read once in order to be tokenized: leave it out")
    contents = _texts(config) if kind == "text" else _files(config, kind)
    order = config.order if config.order != "auto" else "given" if kind == "text" else "shuffled"
    settings = Settings(round(config.shard_megabytes * 1e6), order, config.seed)
    started, said = time.monotonic(), [time.monotonic()]

    def say(done: int, total: int) -> None:
        if time.monotonic() - said[0] > LINE_SECONDS:
            said[0] = time.monotonic()
            tell(f"writing    {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    kept = write_shards(
        config.out, kind, contents.splits, settings, held_out=contents.held_out, classes=contents.classes,
        label_columns=contents.label_columns, extra=contents.extra, texts=contents.texts, skipped=contents.skipped,
        progress=say,
    )  # fmt: skip
    for split in contents.splits:
        tell(f"{split.name or 'no split'}: {len(split.usable):,} samples, {split.sizes.sum() / 1e6:,.1f} MB")
    tars = list(config.out.glob("*.tar"))
    was = f", of which {kept:,} were there already" if kept else ""
    tell(f"{len(tars):,} shards{was}; {time.monotonic() - started:.0f} s")
    print_skipped(contents.skipped, "index/skipped.jsonl")
    tell(config.out)
    return config.out


def _files(config: ShardConfig, kind: Kind) -> Contents:
    """Pictures, recordings or videos: every file is checked, then stored as it is."""
    everything = _open(config, kind, None)
    sources = {name: _open(config, kind, name) for name in sorted(everything.splits)}
    named = {file for source in sources.values() for file in source.files}
    rest = [number for number, file in enumerate(everything.files) if file not in named]
    if rest:  # can be asked for only where no split is
        sources[""] = everything.subset(rest)
    labels = {name: [dict(source.row(number)) for number in range(len(source))] for name, source in sources.items()}
    columns = list(dict.fromkeys(key for rows in labels.values() for row in rows for key in row))
    columns = [column for column in columns if column not in ("file", "split")]
    contents = Contents(
        [], everything.held_out, everything.listing.classes, columns or None, skipped=list(everything.skipped)
    )
    for name, source in sources.items():
        split = _split(config, kind, name, source)
        rows = [{key: value for key, value in row.items() if key in columns} for row in labels[name]]
        split.labels = rows if columns else []
        contents.splits.append(split)
        contents.skipped += [item for item in source.skipped if item not in contents.skipped]
    return contents


def _open(config: ShardConfig, kind: Kind, split: str | None) -> FileSource:
    data = list(config.data)
    if kind == "images":
        return open_images(data, split=split, channels=config.channels)
    return open_audio(data, split=split) if kind == "audio" else open_videos(data, split=split)


def _split(config: ShardConfig, kind: Kind, name: str, source: FileSource) -> SplitData:
    """One split, its files checked; those that cannot be used are noted in ``source.skipped``."""
    columns: dict[str, np.ndarray] = {}
    records: list[str] = []
    least = (0, 0)
    if kind == "images":
        assert isinstance(source, ImageSource)
        sizes, failures = check_images(source, workers=config.workers)
        columns["pixels"] = sizes
        known = sizes[(sizes > 0).all(1)]
        least = (int(known[:, 0].min()), int(known[:, 1].min())) if len(known) else least
    elif kind == "audio":
        failures = check_recordings(source, workers=config.workers)  # pyright: ignore[reportArgumentType]
        headers = source.headers()  # pyright: ignore[reportAttributeAccessIssue]
        records = [json.dumps(astuple(item)) if isinstance(item, Header) else "null" for item in headers]
    else:
        look = partial(_look_at_video, source)
        found = map_files(look, range(len(source)), workers=config.workers, seconds=60.0, method="spawn")
        failures = {index: result for index, result in found if isinstance(result, MediaError)}
    source.note_skipped(failures, MAX_SKIPPED_SHARE, {*HARMLESS, "no picture"})
    lengths = np.zeros(len(source), np.int64)
    for number in range(len(source)):
        if number not in failures:
            lengths[number] = source.extent(number).size
    folders = [entry.folder_class for entry in source.listing.entries] if name else [""] * len(source)
    return SplitData(
        name, source.files, lengths, [PurePosixPath(file).suffix.lower() for file in source.files],
        partial(_pieces, source), source.fingerprint(), folders, columns=columns, records=records, least=least,
    )  # fmt: skip


def _look_at_video(source: FileSource, index: int) -> None:
    """Raises MediaError when there are no pictures in it; all of it is decoded when clips are made."""
    with guarded(_OPEN_SECONDS), open_media(source.extent(index), _OPEN_SECONDS) as container:
        pictures_of(container)


def _pieces(source: FileSource, index: int) -> Iterator[bytes]:
    extent = source.extent(index)
    for place in range(0, extent.size, _PIECE):
        yield extent.read(place, min(_PIECE, extent.size - place))


def _texts(config: ShardConfig) -> Contents:
    """Texts: a document a member, as UTF-8."""
    how: dict[str, Any] = {"documents": config.documents, "text_column": config.text_column}
    everything = open_texts(list(config.data), **how)
    splits = []
    for name in everything.splits:
        source = open_texts(list(config.data), split=name, **how)
        sizes = np.array([len(text.encode()) for text in source], np.int64)
        where = source.where()
        columns = {"characters": source.lengths(), "file": where[:, 0], "line": where[:, 1], "part": where[:, 2]}
        names = [source.name_of(number) for number in range(len(source))]
        splits.append(
            SplitData(name, names, sizes, [".txt"] * len(source), _Documents(source), source.fingerprint(),
                      columns=columns)
        )  # fmt: skip
    extra = {"documents": config.documents, "text_column": config.text_column, "notes": everything.notes,
             "encodings": everything.encodings()}  # fmt: skip
    return Contents(
        splits, everything.held_out, extra=extra, texts={"files": everything.files}, skipped=list(everything.skipped)
    )


class _Documents:
    """The bytes of documents by number, which are asked for in ascending order."""

    def __init__(self, source: TextSource) -> None:
        self._texts = enumerate(source)

    def __call__(self, number: int) -> Iterator[bytes]:
        yield next(text for place, text in self._texts if place == number).encode()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        shard(tyro.cli(ShardConfig, args=arguments, description=(__doc__ or "").split("\n", 1)[0]))


if __name__ == "__main__":
    main()
