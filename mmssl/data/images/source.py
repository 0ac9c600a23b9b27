"""A set of images as a map-style source: ``len()``, ``[i] -> sample``, labels, and a record of what is not usable.

The id of a sample is its place in ``files``, which are sorted. It stays the same however many files turn out to be
broken (those are never sampled, see :mod:`mmssl.data.images.loader`), and changes when files are added to the data.
"""

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from mmssl.data.images.decode import decode_image
from mmssl.data.images.stores import Store
from mmssl.data.labels import LabelTable
from mmssl.data.limits import ImageError, Limits
from mmssl.data.skipped import MAX_SKIPPED_SHARE, Skipped, write_skipped
from mmssl.errors import UserError

__all__ = ["MAX_SKIPPED_SHARE", "Entry", "ImageSource", "Part", "Skipped", "write_skipped"]


@dataclass(frozen=True)
class Part:
    """One store, with what stands before its names when several were opened, and its labels."""

    store: Store
    prefix: str
    table: LabelTable | None


@dataclass(frozen=True)
class Entry:
    part: int
    index: int
    file: str
    split: str | None
    folder_class: str


class ImageSource:
    """Images of one split.

    ``files[i]`` names sample i; ``splits`` counts the images of every split that can be asked for; ``held_out`` tells
    that its "val" is cut from the training images by :func:`mmssl.data.images.hold_out`.
    """

    def __init__(
        self, parts: list[Part], entries: list[Entry], *, channels: int, name: str, splits: dict[str, int],
        split: str | None, held_out: bool, classes: list[str], not_images: list[Skipped], limits: Limits,
    ) -> None:  # fmt: skip
        self._parts, self._entries, self._classes = parts, entries, classes
        self.channels, self.name, self.limits = channels, name, limits
        self.split, self.splits, self.held_out = split, splits, held_out
        self.files = [entry.file for entry in entries]
        self.skipped: list[Skipped] = not_images
        """Files found not to be usable so far. A loader adds what it cannot decode."""

    def __len__(self) -> int:
        return len(self._entries)

    def spread(self, count: int) -> "ImageSource":
        """At most ``count`` of these images, evenly spaced in the order of names, with ids of their own."""
        if count < 1:
            raise UserError(f"at least 1 image of {self.name} must be taken, got {count}")
        chosen = [self._entries[i * len(self) // count] for i in range(count)] if count < len(self) else self._entries
        part = copy.copy(self)
        part._entries, part.files = chosen, [entry.file for entry in chosen]
        part.skipped = list(self.skipped)
        return part

    def read(self, index: int) -> bytes:
        """The bytes of a file. Raises ImageError when it cannot be read."""
        entry = self._entries[index]
        return self._parts[entry.part].store.read(entry.index, self.limits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample. Raises UserError naming the file when it cannot be decoded."""
        try:
            image = decode_image(self.read(index), self.channels, limits=self.limits)
        except ImageError as error:
            raise UserError(f"{self.location(index)}: {error.reason}: repair or remove the file") from None
        return {"id": index, "image": image, "file": self.files[index]}

    def location(self, index: int) -> str:
        """Path of a file (TAR!MEMBER inside a tar), for messages."""
        entry = self._entries[index]
        return self._parts[entry.part].store.location(entry.index)

    def stamp(self, index: int) -> tuple[int, int]:
        """Size in bytes and time of change of a file."""
        entry = self._entries[index]
        return self._parts[entry.part].store.stamp(entry.index)

    def file_splits(self) -> list[str]:
        """The split of every image, "" without one."""
        return [entry.split or "" for entry in self._entries]

    def labels(self, name: str | None = None) -> tuple[Int64[np.ndarray, " image"], list[str]]:
        """Class index of every image (``targets[id]``) and the class names.

        Args:
            name: a column of labels.csv, or "folder". Default: the column ``label`` or the only one; without a
                labels.csv the folder the image lies in.

        Raises:
            UserError: without labels, with several columns to choose from, or with images that have no label.
        """
        tables = {part.table for part in self._parts}
        table = next(iter(tables)) if len(tables) == 1 else None
        if name == "folder" or table is None or not table.columns:
            return self._folder_labels(name)
        column = name or table.default_column()
        if column is None:
            raise UserError(f"{table.origin} has several label columns: choose one of {', '.join(table.columns)}")
        names = [self._parts[entry.part].store.names[entry.index] for entry in self._entries]
        return table.targets(names, column)

    def label_columns(self) -> list[str]:
        """What :meth:`labels` can be asked for."""
        tables = {part.table for part in self._parts}
        table = next(iter(tables)) if len(tables) == 1 else None
        return (table.columns if table else []) or (["folder"] if len(self._classes) > 1 else [])

    def _folder_labels(self, name: str | None) -> tuple[Int64[np.ndarray, " image"], list[str]]:
        if name not in (None, "folder"):
            raise UserError(f"{self.name} has no labels.csv with a column '{name}': add one or use its class folders")
        if len(self._classes) < 2:
            raise UserError(f"{self.name} has no labels: put images into one folder a class or add a labels.csv")
        place = {label: number for number, label in enumerate(self._classes)}
        for entry in self._entries:
            if not entry.folder_class:
                raise UserError(f"{entry.file} lies in no class folder: move it into one or add a labels.csv")
        return np.array([place[entry.folder_class] for entry in self._entries], np.int64), self._classes

    def fingerprint(self) -> str:
        """Hash of names and sizes: equal for equal data, so that a resumed run can tell that its data changed."""
        digest = hashlib.blake2b(digest_size=16)
        for index, file in enumerate(self.files):
            digest.update(f"{file}\0{self.stamp(index)[0]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def note_skipped(self, failures: dict[int, ImageError], max_share: float = MAX_SKIPPED_SHARE) -> None:
        """Record images that cannot be used.

        Raises:
            UserError: when none is left, or when they are more than the allowed share.
        """
        known = {item.file for item in self.skipped}
        for index, error in sorted(failures.items()):
            if self.files[index] not in known:
                self.skipped.append(Skipped(self.files[index], error.reason, error.kind))
        # a hold-out of a few images is part of the training set: one broken image is not a large share of it
        total = max(len(self), sum(self.splits.values()) if self.held_out else 0)
        if failures and (len(failures) > max_share * total or len(failures) == len(self)):
            first = min(failures)
            raise UserError(
                f"{len(failures)} of {len(self)} images of {self.name} cannot be used, more than the allowed "
                f"{max_share:.0%} (first: {self.location(first)}: {failures[first].reason}): repair or remove them; "
                f"`mmssl inspect {self.name}` lists them all"
            )
