"""Token ids on disk: tokenized once, memory-mapped from then on.

    cache = open_cache(source, tokenizer)
    cache.tokens[cache.documents[3] : cache.documents[4]]      # ids of document 3, without special tokens

A cache is a folder named by a hash of everything that decides its content: the files' contents and names, how they are
cut, the split, the tokenizer and the version of this format. It lies in $MMSSL_CACHE, by default ~/.cache/mmssl/text.
It is built under another name and renamed when it is whole, so a build that was killed leaves nothing that could be
taken for a cache; one whose files have the wrong sizes is built again.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from mmssl.config import parse_json
from mmssl.data.text.source import TextSource, document_name
from mmssl.data.text.tokenizer import TextTokenizer
from mmssl.errors import FULL, UserError

FORMAT = 1
"""Raised whenever the same source and tokenizer would give other files than before."""
_BATCH_CHARACTERS = 2**20
_STALE_SECONDS = 24 * 3600


def default_folder() -> Path:
    """$MMSSL_CACHE, or mmssl/text in the user's cache folder."""
    given = os.environ.get("MMSSL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(base) / "mmssl" / "text"


class TokenCache:
    """All tokens of a split, one document after the other, and where they came from.

    ``tokens`` (uint16, or uint32 for vocabularies beyond 65,536) and ``marks`` are memory-mapped: they take no memory
    but what the system keeps of the file.
    """

    def __init__(self, folder: Path, tokenizer: TextTokenizer, facts: dict) -> None:
        self.folder, self.tokenizer, self.key = folder, tokenizer, folder.name
        self.name: str = facts["name"]
        self.files: list[str] = facts["files"]
        count = facts["tokens"]
        dtype = token_dtype(tokenizer.vocabulary_size)
        self.tokens: Shaped[np.ndarray, " token"] = _map(folder / "tokens.bin", dtype, count)
        self.marks: UInt8[np.ndarray, " token"] = _map(folder / "marks.bin", np.uint8, count)
        self.documents: Int64[np.ndarray, " document_and_end"] = np.load(folder / "documents.npy")
        """Where each document begins in ``tokens``, and the end of the last."""
        self.where: Int64[np.ndarray, "document 3"] = np.load(folder / "where.npy", mmap_mode="r")
        """File, line and part of each document."""

    def __len__(self) -> int:
        """Number of documents, those without a token included."""
        return len(self.documents) - 1

    def name_of(self, document: int) -> str:
        file, line, part = self.where[document].tolist()
        return document_name(self.files[file], line, part)


def token_dtype(vocabulary_size: int) -> type[np.unsignedinteger]:
    return np.uint16 if vocabulary_size <= 2**16 else np.uint32


def _map(path: Path, dtype: type, count: int) -> np.ndarray:
    return np.memmap(path, dtype, mode="r") if count else np.zeros(0, dtype)


def open_cache(
    source: TextSource,
    tokenizer: TextTokenizer,
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenCache:
    """Open the cache of a source, or build it.

    Args:
        source: whose documents.
        tokenizer: what cuts them into tokens.
        folder: where caches lie; default as above.
        progress: called with (documents done, documents) while it is built.

    Raises:
        UserError: when the folder cannot be written or the disk is full, or the data changed since it was opened.
    """
    parent = folder or default_folder()
    said = json.dumps([FORMAT, source.fingerprint(), tokenizer.digest])
    target = parent / hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
    facts = _facts(target)
    if facts is None:
        try:
            _build(source, tokenizer, target, progress)
        except OSError as error:
            why = "the disk is full" if error.errno in FULL else f"it cannot be written ({error.strerror or error})"
            raise UserError(
                f"{parent}, where tokens are kept, cannot take those of {source.name}: {why}; "
                "free some space or set MMSSL_CACHE to another folder"
            ) from None
        facts = _facts(target)
    if facts is None:
        raise UserError(f"{target} was changed while it was written: is another program cleaning it up? Start again")
    return TokenCache(target, tokenizer, facts)


def _facts(folder: Path) -> dict | None:
    """What is written of a cache, or None when it is missing or its files are not as long as it says."""
    try:
        facts = parse_json((folder / "facts.json").read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in facts["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if whole else None


def _build(
    source: TextSource, tokenizer: TextTokenizer, target: Path, progress: Callable[[int, int], None] | None
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target.parent)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        _fill(source, tokenizer, partial, progress)
        for _ in range(2):
            try:
                partial.rename(target)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            # another process was faster, or what lies there is damaged
            if _facts(target) is not None:
                return
            shutil.rmtree(target, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_stale(parent: Path) -> None:
    """Half-built caches of killed processes, once nobody can be writing them any more."""
    for path in parent.glob(".partial-*"):
        newest = max((entry.stat().st_mtime for entry in (path, *path.iterdir())), default=0.0)
        if time.time() - newest > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _fill(
    source: TextSource, tokenizer: TextTokenizer, folder: Path, progress: Callable[[int, int], None] | None
) -> None:
    lengths = np.zeros(len(source), np.int64)
    dtype = token_dtype(tokenizer.vocabulary_size)
    done = 0
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "marks.bin").open("wb") as marks:
        for texts in batches_of(source):
            for tokenized in tokenizer.encode(texts):
                _write(tokens, tokenized.ids.astype(dtype))
                _write(marks, tokenized.marks)
                lengths[done] = len(tokenized.ids)
                done += 1
            if progress is not None:
                progress(done, len(source))
    np.save(folder / "documents.npy", np.concatenate(([0], np.cumsum(lengths))))
    np.save(folder / "where.npy", source.where())
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    facts = {"name": source.name, "files": source.files, "tokens": int(lengths.sum()), "sizes": sizes}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8", errors="surrogateescape")


def _write(file: IO[bytes], values: np.ndarray) -> None:
    file.write(values.tobytes())


def batches_of(documents: TextSource, characters: int = _BATCH_CHARACTERS) -> Iterator[list[str]]:
    """Documents in lists of about so many characters: enough to keep the tokenizer busy, little enough to hold."""
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
