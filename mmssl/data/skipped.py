"""The record of files that are not used: every modality keeps it in the same form."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmssl.terminal import tell

MAX_SKIPPED_SHARE = 0.05
"""Past this share of broken files a run stops."""
_SHOWN = 10


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why.

    ``kind`` is one word or two for counting: "not an image", "not text", "broken", "empty" and so on.
    """

    file: str
    reason: str
    kind: str


@runtime_checkable
class Source(Protocol):
    """Anything that keeps such a record."""

    @property
    def skipped(self) -> Sequence[Skipped]: ...


def write_skipped(run_dir: Path, *sources: Source) -> Path:
    """Write skipped.jsonl of a run: one JSON object (file, reason, kind) a line."""
    path = run_dir / "skipped.jsonl"
    rows = dict.fromkeys(item for source in sources for item in source.skipped)
    lines = [
        json.dumps({"file": row.file, "reason": row.reason, "kind": row.kind}, ensure_ascii=False) + "\n"
        for row in rows
    ]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
    return path


def print_skipped(skipped: Sequence[Skipped], record: str) -> None:
    """How many files are left out, by kind, and why the first ones are. ``record``: the file that has all."""
    if not skipped:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in Counter(row.kind for row in skipped).most_common())
    tell(f"left out: {kinds}; all are in {record}")
    for row in skipped[:_SHOWN]:
        tell(f"  {row.file}: {row.reason}")
