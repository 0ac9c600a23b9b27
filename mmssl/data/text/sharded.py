"""The documents of a set of shards: cut when it was made, read in order, names and numbers as before."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mmssl.data.limits import Limits, MediaError
from mmssl.data.parts import Listing
from mmssl.data.shards.listing import ShardRows, list_shards
from mmssl.data.text.cutting import Documents
from mmssl.data.text.source import TextSource
from mmssl.errors import UserError

_AHEAD = 2
"""Shards fetched in the background while one is read."""


def open_sharded_texts(given: Sequence[str | Path], split: str | None, documents: Documents) -> "ShardedTexts":
    """The documents of a split.

    Raises:
        UserError: when the set is of another kind, has no such split, is one of several, or was cut by another rule
            than ``documents``.
    """
    if len(given) > 1:
        raise UserError(
            f"{', '.join(map(str, given))}: a set of shards is read alone: shard all of the data together, or train "
            "on one"
        )
    source = ShardedTexts(list_shards(given[0], split, "texts"))
    if documents not in ("auto", source.documents):
        raise UserError(
            f"{source.name} was cut into documents by the rule '{source.documents}': leave the rule '{documents}' out, "
            "or shard the texts again"
        )
    return source


class ShardedTexts(TextSource):
    """A :class:`TextSource` whose documents lie in shards, one a member."""

    def __init__(self, listing: Listing) -> None:
        rows = listing.index
        assert isinstance(rows, ShardRows)
        assert isinstance(rows.rows, range)
        self._index, self._store, self._rows = rows, rows.store, rows.rows
        self.name, self.split, self.splits = listing.name, listing.split, listing.splits
        self.held_out, self.skipped = listing.held_out, listing.skipped
        self._said = rows.index.facts.settings
        self.documents = str(self._said.get("documents", "auto"))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def characters(self) -> int:
        return int(self.lengths().sum())

    def lengths(self) -> Int64[np.ndarray, " document"]:
        return self._column("characters")

    def where(self) -> Int64[np.ndarray, "document 3"]:
        return np.stack([self._column(name) for name in ("file", "line", "part")], 1)

    def _column(self, name: str) -> Int64[np.ndarray, " document"]:
        found = self._index.column(name)
        if found is None:
            raise self._index.index.damaged(f"{name}.npy is missing")
        return found.astype(np.int64)

    @property
    def files(self) -> list[str]:
        return list(self._index.index.texts("files"))

    def name_of(self, index: int) -> str:
        return self._index.files[index]

    def __iter__(self) -> Iterator[str]:
        shards, limits, ahead = self._index.index.facts.shards, Limits(), self._store.readahead()
        of_each = self._index.column("shard")
        before = -1
        for number, row in enumerate(self._rows):
            shard = before if of_each is None else int(of_each[number])
            if ahead is not None and shard != before:
                ahead.want(list(shards[shard + 1 : shard + 1 + _AHEAD]))
            before = shard
            try:
                yield self._store.read(row, limits).decode()
            except (MediaError, UnicodeDecodeError) as error:
                raise UserError(f"{self._store.location(row)} cannot be read: {error}") from None

    def fingerprint(self) -> str:
        """That of the texts they were made of; of all splits together, that of their plan."""
        return self._index.fingerprint() or self._index.index.facts.plan

    @property
    def notes(self) -> list[str]:
        return [str(note) for note in self._said.get("notes", [])]

    def encodings(self) -> dict[str, int]:
        return {str(name): int(count) for name, count in self._said.get("encodings", {}).items()}
