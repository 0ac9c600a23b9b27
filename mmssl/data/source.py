"""A set of files as a map-style source: ``len()``, names, labels, splits, and a record of what is not usable.

Pictures and recordings are one file a sample: they share this, and add how a file is read. The number of a file is its
place in ``files``, which are sorted. It stays the same however many files turn out to be broken (those are never
sampled), and changes when files are added to the data.
"""

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from mmssl.data.labels import LabelTable
from mmssl.data.limits import MediaError
from mmssl.data.parts import Entry, Listing
from mmssl.data.skipped import MAX_SKIPPED_SHARE, Skipped
from mmssl.data.stores import Extent
from mmssl.errors import UserError

S = TypeVar("S", bound="FileSource")


class FileSource:
    """The files of one split.

    ``files[i]`` names file i; ``splits`` counts the files of every split that can be asked for; ``held_out`` tells that
    its "val" is cut from the training files by :func:`mmssl.data.parts.hold_out`.
    """

    what = "files"
    """What the files are, for messages: "images", "recordings"."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        """Of all files of the split, also where this is a part of them."""
        self._parts, self._entries, self._classes = listing.parts, listing.entries, listing.classes
        self.name = listing.name
        self.split, self.splits, self.held_out = listing.split, listing.splits, listing.held_out
        self.index = listing.index
        """What is known of the files of a set of shards."""
        self.files: Sequence[str] = [entry.file for entry in listing.entries] if not self.index else self.index.files
        self.skipped: list[Skipped] = list(listing.skipped)
        """Files found not to be usable so far. A loader adds what it cannot decode."""

    def __len__(self) -> int:
        return len(self._entries)

    def spread(self: S, count: int) -> S:
        """At most ``count`` of these files, evenly spaced in the order of names, with ids of their own."""
        if count < 1:
            raise UserError(f"at least 1 of the {self.what} of {self.name} must be taken, got {count}")
        count = min(count, len(self))
        return self.subset([place * len(self) // count for place in range(count)])

    def subset(self: S, chosen: Sequence[int]) -> S:
        """The files of these numbers, with ids of their own."""
        part = copy.copy(self)
        part.index = None if self.index is None else self.index.subset(chosen)
        part._entries = [self._entries[number] for number in chosen]
        part.files = [entry.file for entry in part._entries]
        part.skipped = list(self.skipped)
        return part

    def sequence(self) -> Sequence[int]:
        """All numbers, in an order in which reading all files is fast."""
        found = range(len(self)) if self.index is None else self.index.sequence()
        return found if isinstance(found, range) else found.tolist()

    def extent(self, index: int) -> Extent:
        """Where the bytes of a file lie. Raises MediaError when it is not there."""
        entry = self._entries[index]
        return self._parts[entry.part].store.extent(entry.index)

    def row(self, index: int) -> Mapping[str, str]:
        """What labels.csv or manifest.jsonl say of a file."""
        return self._row(self._entries[index])

    def location(self, index: int) -> str:
        """Path of a file (TAR!MEMBER inside a tar), for messages."""
        entry = self._entries[index]
        return self._parts[entry.part].store.location(entry.index)

    def stamp(self, index: int) -> tuple[int, int]:
        """Size in bytes and time of change of a file."""
        entry = self._entries[index]
        return self._parts[entry.part].store.stamp(entry.index)

    def file_splits(self) -> list[str]:
        """The split of every file, "" without one."""
        return [entry.split or "" for entry in self._entries]

    def labels(self, name: str | None = None) -> tuple[Int64[np.ndarray, " file"], list[str]]:
        """Class index of every file (``targets[number]``) and the class names.

        Args:
            name: a column of labels.csv or manifest.jsonl, or "folder". Default: the column ``label`` or the only one;
                without such a table the folder the file lies in.

        Raises:
            UserError: without labels, with several columns to choose from, or with files that have no label.
        """
        table = self._table()
        if name == "folder" or table is None or not table.columns:
            return self._folder_labels(name)
        column = name or table.default_column()
        if column is None:
            raise UserError(f"{table.origin} has several label columns: choose one of {', '.join(table.columns)}")
        return table.targets([self._stored_name(entry) for entry in self._entries], column)

    def column(self, name: str) -> list[str]:
        """What a column of labels.csv or manifest.jsonl says of every file, "" where nothing; "folder": class folders.

        Raises:
            UserError: when there is no such column.
        """
        if name == "folder":
            return [entry.folder_class for entry in self._entries]
        tables = {part.table for part in self._parts} - {None}
        if not any(table.has(name) for table in tables if table):
            known = ", ".join(dict.fromkeys(column for table in tables if table for column in table.columns)) or "none"
            raise UserError(f"{self.name} has no column '{name}': choose one of {known}")
        rows = [self._row(entry) for entry in self._entries]
        return [(row.get(name) or "").strip() for row in rows]

    def _row(self, entry: Entry) -> Mapping[str, str]:
        table = self._parts[entry.part].table
        return (table.row(self._stored_name(entry)) if table else None) or {}

    def _table(self) -> LabelTable | None:
        """The table of all files; None without one, or when several stores have their own."""
        tables = {part.table for part in self._parts}
        return next(iter(tables)) if len(tables) == 1 else None

    def _stored_name(self, entry: Entry) -> str:
        return self._parts[entry.part].store.names[entry.index]

    def label_columns(self) -> list[str]:
        """What :meth:`labels` can be asked for."""
        table = self._table()
        return (table.columns if table else []) or (["folder"] if len(self._classes) > 1 else [])

    def _folder_labels(self, name: str | None) -> tuple[Int64[np.ndarray, " file"], list[str]]:
        if name not in (None, "folder"):
            raise UserError(f"{self.name} has no labels.csv with a column '{name}': add one or use its class folders")
        if len(self._classes) < 2:
            raise UserError(f"{self.name} has no labels: put {self.what} into one folder a class or add a labels.csv")
        place = {label: number for number, label in enumerate(self._classes)}
        for entry in self._entries:
            if not entry.folder_class:
                raise UserError(f"{entry.file} lies in no class folder: move it into one or add a labels.csv")
        return np.array([place[entry.folder_class] for entry in self._entries], np.int64), self._classes

    def fingerprint(self) -> str:
        """Hash of names and sizes: equal for equal data, so that a resumed run can tell that its data changed."""
        if self.index is not None and (known := self.index.fingerprint()) is not None:
            return known
        digest = hashlib.blake2b(digest_size=16)
        for index, file in enumerate(self.files):
            digest.update(f"{file}\0{self.stamp(index)[0]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def note_skipped(
        self,
        failures: dict[int, MediaError],
        max_share: float = MAX_SKIPPED_SHARE,
        harmless: Collection[str] = (),
    ) -> None:
        """Record files that cannot be used. Those of a ``harmless`` kind do not count towards the share, and a single
        broken file is never too many.

        Raises:
            UserError: when none is left, or when they are more than the allowed share.
        """
        known = {item.file for item in self.skipped}
        for index, error in sorted(failures.items()):
            if self.files[index] not in known:
                self.skipped.append(Skipped(self.files[index], error.reason, error.kind))
        # a hold-out of a few files is part of the training set: one broken file is not a large share of it
        total = max(len(self), sum(self.splits.values()) if self.held_out else 0)
        bad = [index for index, error in failures.items() if error.kind not in harmless]
        too_many = len(bad) > max(1, max_share * total)
        if failures and (too_many or len(failures) == len(self)):
            counted = bad if too_many else failures
            first = min(counted)
            raise UserError(
                f"{len(counted)} of {len(self)} {self.what} of {self.name} cannot be used, more than the allowed "
                f"{max_share:.0%} (first: {self.location(first)}: {failures[first].reason}): repair or remove them; "
                f"`mmssl inspect {self.name}` lists them all"
            )
