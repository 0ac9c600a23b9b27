"""The documents of one split: ``len()``, iteration over their texts, their names, and what was noticed in the files."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int64

from mmssl.data.skipped import Skipped
from mmssl.data.text.decoding import NotTextError
from mmssl.data.text.files import BROKEN, streams, why
from mmssl.data.text.reading import Found, Plan, in_words, read_documents
from mmssl.errors import UserError


class TextSource:
    """Texts of one split, read from their files whenever they are asked for.

    ``splits`` counts the documents of every split that can be asked for; ``held_out`` tells that its "val" is cut from
    the training documents. ``skipped`` lists files that are not used, ``notes`` says how the others were read.
    """

    def __init__(
        self, plans: list[Plan], found: Found, chosen: Bool[np.ndarray, " document"], *, name: str, split: str | None,
        splits: dict[str, int], held_out: bool, skipped: list[Skipped], documents: str,
    ) -> None:  # fmt: skip
        self.plans, self.found = plans, found
        self.name, self.split, self.splits, self.held_out = name, split, splits, held_out
        self.skipped, self.documents = skipped, documents
        self._chosen = np.flatnonzero(chosen).astype(np.int64)

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def characters(self) -> int:
        return int(self.found.characters[self._chosen].sum(dtype=np.int64))

    def lengths(self) -> Int64[np.ndarray, " document"]:
        """Characters of every document."""
        return self.found.characters[self._chosen].astype(np.int64)

    def where(self) -> Int64[np.ndarray, "document 3"]:
        """File (index into ``files``), line and part of every document."""
        columns = (self.found.file, self.found.line, self.found.part)
        return np.stack([column[self._chosen].astype(np.int64) for column in columns], 1)

    @property
    def files(self) -> list[str]:
        return [plan.file.name for plan in self.plans]

    def name_of(self, index: int) -> str:
        """Where a document begins: file, line (or row), and which part of it where one line gives several."""
        place = self._chosen[index]
        return document_name(
            self.plans[self.found.file[place]].file.name, int(self.found.line[place]), int(self.found.part[place])
        )

    def __iter__(self) -> Iterator[str]:
        """The texts of all documents, in order; the files are read on the way.

        Raises:
            UserError: when a file has changed since it was opened.
        """
        firsts = np.searchsorted(self.found.file[self._chosen], np.arange(len(self.plans) + 1))
        used = [number for number in range(len(self.plans)) if firsts[number] < firsts[number + 1]]
        offsets = np.searchsorted(self.found.file, np.arange(len(self.plans) + 1))
        for place, stream in streams([self.plans[number].file for number in used]):
            number = used[place]
            wanted = self._chosen[firsts[number] : firsts[number + 1]] - offsets[number]
            sizes = self.found.characters[offsets[number] : offsets[number + 1]]
            try:
                if isinstance(stream, BaseException):
                    raise stream
                yield from _pick(read_documents(self.plans[number], stream), wanted.tolist(), sizes)
            except (NotTextError, *BROKEN) as error:
                raise UserError(
                    f"{self.plans[number].file.name} of {self.name} was readable before and is not now "
                    f"({why(error)}): repair it and start again"
                ) from None

    def fingerprint(self) -> str:
        """Hash of names, contents and cutting: equal for equal documents in equal order."""
        digest = hashlib.blake2b(digest_size=16)
        for plan in self.plans:
            digest.update(repr((plan.file.name, plan.digest, plan.settings())).encode("utf-8", "backslashreplace"))
        digest.update(self._chosen.tobytes())
        return digest.hexdigest()

    @property
    def notes(self) -> list[str]:
        """How the files were cut and decoded, for people: one sentence each."""
        cuts = Counter(in_words(plan) for plan in self.plans)
        notes = [f"{count:,} {_files(count)}: {rule}" for rule, count in cuts.most_common()]
        encodings = Counter(plan.encoding for plan in self.plans if plan.encoding not in ("utf-8", "utf-8-sig"))
        for encoding, count in encodings.most_common():
            first = next(plan.file.name for plan in self.plans if plan.encoding == encoding)
            how = "by its byte order mark" if encoding.startswith("utf") else "because it is not valid UTF-8"
            notes.append(f"{count:,} {_files(count)} read as {encoding} {how} (first: {first})")
        nul = [plan for plan in self.plans if plan.nul]
        if nul:
            total = sum(plan.nul for plan in nul)
            notes.append(
                f"{total:,} NUL bytes removed from {len(nul):,} {_files(len(nul))} (first: {nul[0].file.name})"
            )
        empty = [plan for plan in self.plans if plan.without_text]
        if empty:
            total = sum(plan.without_text for plan in empty)
            notes.append(f"{total:,} rows without text left out (first file: {empty[0].file.name})")
        return notes

    def encodings(self) -> dict[str, int]:
        """Number of files by encoding."""
        return dict(Counter(plan.encoding for plan in self.plans if plan.rule != "row" or plan.nul).most_common())


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def document_name(file: str, line: int, part: int) -> str:
    """ "Emma.txt:42", and "Emma.txt:42+1" for the second document that begins in that line."""
    return f"{file}:{line}" + (f"+{part}" if part else "")


def _pick(documents: Iterator, wanted: Sequence[int], sizes: np.ndarray) -> Iterator[str]:
    """The documents at the places wanted (ascending). Raises NotTextError when they are not what they were."""
    places = iter(wanted)
    next_place = next(places, None)
    number = 0
    for document in documents:
        if next_place is None:
            return
        if document is None:
            continue
        if number == next_place:
            if len(document.text) != sizes[number]:
                break
            yield document.text
            next_place = next(places, None)
        number += 1
    if next_place is not None:
        raise NotTextError("broken", "its content has changed")
