"""Open texts wherever they are: folders, files, tar files, rows of tables, Hugging Face datasets.

    source = open_texts("books", split="train")
    for text in source: ...     # every document of the split, read as it is needed
    source.name_of(3)           # "Emma.txt:42": the line the document begins in

``data`` may be

- a folder, at any depth, with .txt and .md (running text), .jsonl, .csv, .tsv and .parquet (a row a document), any of
  them compressed with gzip, and tar files of these;
- a tar file (.tar, .tar.gz, .tgz) or a single such file;
- a Hugging Face dataset on disk (``Dataset.save_to_disk``; needs the ``datasets`` package);
- several of these, as a list;
- a set of shards that data_prep/shard.py made of them, or its URL.

How running text is cut into documents is said in :mod:`mmssl.data.text.cutting`, what encodings are known in
:mod:`mmssl.data.text.decoding`; what was done is in ``source.notes``.

**Splits.** By a column ``split``; else by a folder named train, val, test (or their usual other names); else by these
words in file names when there is one with "train" (wikitext2_train.txt, wikitext2_valid.txt); files without one belong
to the training set. Without a validation split 5 % of the training documents, at most about 1024, are held out by a
hash of their text: documents that repeat word for word are never on both sides, and adding files moves no document
while 5 % are fewer than 1024.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Bool, UInt64

from mmssl.data.labels import SPLIT_NAMES, folder_splits
from mmssl.data.shards.store import is_shards
from mmssl.data.skipped import MAX_SKIPPED_SHARE, Skipped
from mmssl.data.text.cutting import Documents
from mmssl.data.text.files import TextFile, list_files, with_prefix
from mmssl.data.text.reading import Found, find_documents, plan_files
from mmssl.data.text.sharded import open_sharded_texts
from mmssl.data.text.source import TextSource
from mmssl.errors import UserError

HOLD_OUT_SHARE = 0.05
HOLD_OUT_MOST = 1024
FEWEST_FILES = 20
"""With fewer files than this one broken file is not a large share of them."""


def open_texts(
    data: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    documents: Documents = "auto",
    text_column: str = "text",
) -> TextSource:
    """Find the documents of ``data``. Every file is read twice: for its encoding, and to count its documents.

    Args:
        data: as above.
        split: "train", "val", "test" or any name in a ``split`` column; None takes every document.
        documents: how running text is cut, see :mod:`mmssl.data.text.cutting`.
        text_column: of .jsonl, .csv, .tsv, .parquet and datasets.

    Raises:
        UserError: when the data is missing, may not be read or holds no text, has no such split, or when more than 5 %
            of at least 20 files are broken.
    """
    if documents not in get_args(Documents):
        raise UserError(f"documents '{documents}' is unknown: choose {', '.join(get_args(Documents))}")
    given = [data] if isinstance(data, str | Path) else list(data)
    if any(map(is_shards, given)):
        return open_sharded_texts(given, split, documents)
    name = ", ".join(str(path) for path in given)
    files, skipped = _list_all([Path(path) for path in given])
    plans, broken = plan_files(files, documents, text_column)
    found, plans, more = find_documents(plans)
    skipped = skipped + broken + more
    _stop_when_broken(skipped, len(files), name)
    if not len(found.score):
        first = (
            f" ({len(skipped)} files were skipped, such as {skipped[0].file}: {skipped[0].reason})" if skipped else ""
        )
        raise UserError(f"{name} holds no text{first}: give .txt, .md, .jsonl, .csv, .tsv or .parquet files with text")
    chosen, splits, held_out = _choose_split(found, split, name)
    return TextSource(
        plans, found, chosen, name=name, split=split, splits=splits, held_out=held_out, skipped=skipped,
        documents=documents,
    )  # fmt: skip


def _list_all(given: list[Path]) -> tuple[list[TextFile], list[Skipped]]:
    """The files of every path, with the path's name before theirs when there are several, and a split each."""
    files: list[TextFile] = []
    skipped: list[Skipped] = []
    taken: Counter[str] = Counter()
    for path in given:
        inside, unused = list_files(path)
        by_folder = folder_splits([file.name for file in inside])
        inside = [replace(file, split=split) for file, split in zip(inside, by_folder, strict=True)]
        if len(given) > 1 and path.is_dir():
            label = path.resolve().name
            taken[label] += 1
            prefix = f"{label}/" if taken[label] == 1 else f"{label}-{taken[label]}/"
            inside = with_prefix(inside, prefix)
            unused = [replace(item, file=prefix + item.file) for item in unused]
        files += inside
        skipped += unused
    return _splits_by_name(files), skipped


def _splits_by_name(files: list[TextFile]) -> list[TextFile]:
    """Files without a split get that of the words in their names, when one of all files is named for training."""
    words = [_split_word(file.name) for file in files]
    if any(word == "train" for word in words):
        return [replace(file, split=file.split or word or "train") for file, word in zip(files, words, strict=True)]
    if any(file.split for file in files):
        return [replace(file, split=file.split or "train") for file in files]
    return files


def _split_word(name: str) -> str | None:
    """ "val" for wikitext2_valid.txt.gz: the word at the start or the end of the name, numbers aside."""
    words = re.findall("[a-z]+", Path(name).name.lower().split(".")[0])
    words = [word for word in words if word != "of"]
    ends = {SPLIT_NAMES.get(word) for word in words[:1] + words[-1:]} - {None}
    return ends.pop() if len(ends) == 1 else None


def _stop_when_broken(skipped: list[Skipped], readable: int, name: str) -> None:
    broken = [item for item in skipped if item.kind in ("broken", "unreadable")]
    total = readable + len(broken)
    if total >= FEWEST_FILES and len(broken) > MAX_SKIPPED_SHARE * total:
        raise UserError(
            f"{len(broken)} of {total} text files of {name} cannot be used, more than the allowed "
            f"{MAX_SKIPPED_SHARE:.0%} (first: {broken[0].file}: {broken[0].reason}): repair or remove them; "
            f"`mmssl inspect --kind text {name}` lists them all"
        )


def _choose_split(
    found: Found, split: str | None, name: str
) -> tuple[Bool[np.ndarray, " document"], dict[str, int], bool]:
    """Which documents are in a split, how many are in each, and whether "val" is a hold-out of ours."""
    codes = np.array([SPLIT_NAMES.get(value.lower(), value) for value in found.split_names] or [""])
    of_each = codes[found.split]
    # where nothing is said of a document, it is for training
    of_each = np.where(of_each == "", "train", of_each)
    held_out = not (of_each == "val").any() and int((of_each == "train").sum()) > 1
    if held_out:
        training = np.flatnonzero(of_each == "train")
        of_each = of_each.astype(object)
        of_each[training[hold_out(found.score[training])]] = "val"
    splits = {str(key): int((of_each == key).sum()) for key in sorted(set(of_each.tolist()), key=_usual_order)}
    if split is None:
        return np.ones(len(of_each), bool), splits, held_out
    wanted = SPLIT_NAMES.get(split.lower(), split)
    if wanted not in splits:
        raise UserError(f"{name} has no split '{split}': choose one of {', '.join(splits)}")
    return of_each == wanted, splits, held_out


def _usual_order(split: str) -> tuple[int, str]:
    usual = ("train", "val", "test")
    return (usual.index(split) if split in usual else len(usual)), split


def hold_out(scores: UInt64[np.ndarray, " document"]) -> Bool[np.ndarray, " document"]:
    """Which documents to keep for validation: those whose hash is below a threshold for 5 %, at most about 1024.

    At least one is held out, and at least one is not.
    """
    share = min(HOLD_OUT_SHARE, HOLD_OUT_MOST / max(len(scores), 1))
    held = scores < np.uint64(share * 2.0**64)
    if not held.any():
        held[int(scores.argmin())] = True
    if held.all():
        held[int(scores.argmax())] = False
    return held
