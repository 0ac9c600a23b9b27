"""From files to documents: what is known of each file after one look, and how its documents are read."""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int16, Int32, Int64, UInt64

from mmssl.data.skipped import Skipped
from mmssl.data.text.cutting import Documents, choose_rule, cut
from mmssl.data.text.decoding import NotTextError, decode, in_parts, look_at_bytes
from mmssl.data.text.files import BROKEN, PARQUET, PLAIN, TextFile, chunks, streams, why
from mmssl.data.text.rows import dataset_rows, open_dataset, read_parquet, read_rows

Rule = Literal["file", "line", "block", "row"]


@dataclass(frozen=True)
class Plan:
    """How a file is read: known after one look at all of its bytes."""

    file: TextFile
    digest: bytes
    """Of its content."""
    rule: Rule
    join: int = 0
    """Blocks or lines are joined until a document has so many characters."""
    encoding: str = "utf-8"
    nul: int = 0
    """NUL bytes, which are removed."""
    column: str = "text"
    without_text: int = 0
    """Rows that are left out because they have no text."""

    def settings(self) -> tuple[str, int, str, str]:
        """What besides the content decides which documents the file gives."""
        return self.rule, self.join, self.encoding, self.column


class Document(NamedTuple):
    """A document, the line or row (from 1) it begins in, which one it is of those in that line, and its split."""

    text: str
    line: int
    part: int
    split: str


@dataclass(frozen=True)
class Found:
    """All documents of all files, in order, without their texts."""

    file: Int32[np.ndarray, " document"]
    line: Int64[np.ndarray, " document"]
    part: Int32[np.ndarray, " document"]
    score: UInt64[np.ndarray, " document"]
    """Hash of the text."""
    characters: Int32[np.ndarray, " document"]
    split: Int16[np.ndarray, " document"]
    """Index into ``split_names``; "" where nothing is said."""
    split_names: list[str]


def plan_files(files: Sequence[TextFile], documents: Documents, column: str) -> tuple[list[Plan], list[Skipped]]:
    """Look at every file once: (how to read those that can be read, the others)."""
    plans: list[Plan] = []
    skipped: list[Skipped] = []
    alone = sum(file.form in PLAIN for file in files) == 1
    for place, stream in streams(files):
        file = files[place]
        try:
            if isinstance(stream, BaseException):
                raise stream
            plans.append(_plan(file, stream, documents, column, alone))
        except NotTextError as error:
            skipped.append(Skipped(file.name, str(error), error.kind))
        except BROKEN as error:
            skipped.append(Skipped(file.name, f"cannot be read ({why(error)})", _kind(error)))
    return plans, skipped


def _kind(error: BaseException) -> str:
    return "unreadable" if isinstance(error, OSError) and error.errno else "broken"


def _plan(file: TextFile, stream: BufferedIOBase, documents: Documents, column: str, alone: bool) -> Plan:
    if file.form == "dataset":
        splits = open_dataset(file.path, column)
        named = "\n".join(f"{split} {part._fingerprint}" for split, part in splits.items())
        return Plan(file, hashlib.blake2b(named.encode(), digest_size=16).digest(), "row", column=column)
    if file.form == PARQUET:
        digest = hashlib.blake2b(digest_size=16)
        for chunk in chunks(stream):
            digest.update(chunk)
        return Plan(file, digest.digest(), "row", column=column)
    seen = look_at_bytes(stream)
    rule: Rule = "row"
    join = 0
    if file.form in PLAIN and documents == "auto":
        rule, join = choose_rule(seen.head, seen.name, seen.size, alone=alone)
    elif file.form in PLAIN:
        rule = documents  # type: ignore[assignment]
    return Plan(file, seen.digest, rule, join, seen.name, seen.nul, column)


def read_documents(plan: Plan, stream: BufferedIOBase) -> Iterator[Document | None]:
    """The documents of one file; None stands for a row without text.

    Raises:
        NotTextError: when the file turns out not to be what its name says.
    """
    split = plan.file.split or ""
    if plan.rule != "row":
        for text, line, part in cut(decode(stream, plan.encoding), plan.rule, plan.join):
            yield Document(text, line, part, split)
        return
    if plan.file.form == "dataset":
        rows = dataset_rows(open_dataset(plan.file.path, plan.column), plan.column)
    elif plan.file.form == PARQUET:
        rows = read_parquet(stream, plan.column)
    else:
        rows = read_rows(decode(stream, plan.encoding), plan.file.form, plan.column)
    for row in rows:
        if row.text is None:
            yield None
            continue
        for part, (text, _) in enumerate(in_parts(row.text)):
            yield Document(text, row.number, part, row.split or split)


def find_documents(plans: Sequence[Plan]) -> tuple[Found, list[Plan], list[Skipped]]:
    """Read every file and remember where its documents are. Files that give none are skipped.

    Returns:
        The documents (their ``file`` counts the plans returned), the plans of the files that gave some, the others.
    """
    columns = [array("i"), array("q"), array("i"), array("Q"), array("i"), array("h")]
    split_codes: dict[str, int] = {"": 0}
    kept: list[Plan] = []
    skipped: list[Skipped] = []
    for place, stream in streams([plan.file for plan in plans]):
        plan = plans[place]
        before, without = len(columns[0]), 0
        try:
            if isinstance(stream, BaseException):
                raise stream
            for document in read_documents(plan, stream):
                if document is None:
                    without += 1
                    continue
                score = int.from_bytes(hashlib.blake2b(document.text.encode(), digest_size=8).digest(), "big")
                code = split_codes.setdefault(document.split.strip(), len(split_codes))
                row = (len(kept), document.line, document.part, score, len(document.text), code)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        except (NotTextError, *BROKEN) as error:
            for column in columns:
                del column[before:]
            kind, reason = (error.kind, str(error)) if isinstance(error, NotTextError) else ("broken", why(error))
            skipped.append(Skipped(plan.file.name, reason, kind))
            continue
        if len(columns[0]) == before:
            skipped.append(Skipped(plan.file.name, "it holds nothing but white space", "empty"))
        else:
            kept.append(replace(plan, without_text=without))
    dtypes = (np.int32, np.int64, np.int32, np.uint64, np.int32, np.int16)
    arrays = [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    return Found(*arrays, split_names=list(split_codes)), kept, skipped


def in_words(plan: Plan) -> str:
    """The rule by which a file was cut, for people."""
    unit = {"file": "a file is a document", "row": "a row is a document"}.get(plan.rule)
    if unit is None:
        what = "blank-line blocks" if plan.rule == "block" else "lines"
        unit = f"{what} are documents" if not plan.join else f"{what} are joined up to {plan.join:,} characters or more"
    return unit
