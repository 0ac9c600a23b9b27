"""One JSON object a line, one line a log step: what plots, tests and resuming read."""

import json
import math
import os
from pathlib import Path
from typing import Any

from mmssl.errors import UserError


def read_journal(file: str | Path) -> list[dict[str, Any]]:
    """All complete lines. A torn last line, left by a kill while writing, is dropped."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file} does not exist: give the folder of a run that has started")
    lines = file.read_text(encoding="utf-8").split("\n")
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{file}, line {number} is damaged: delete that line") from None
    return entries


class Journal:
    """Appends lines and flushes each, so that a kill costs at most the line being written."""

    def __init__(self, file: Path, resume_step: int | None = None) -> None:
        """``resume_step``: forget lines after this step; they will be written again."""
        self.file = file
        kept = [] if resume_step is None or not file.exists() else read_journal(file)
        kept = [entry for entry in kept if entry["step"] <= (resume_step or 0)]
        staged = file.with_name(file.name + ".new")
        staged.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        os.replace(staged, file)
        self.stream = file.open("a", encoding="utf-8")

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line. Numbers that JSON lacks (nan, inf) become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        self.stream.write(json.dumps(clean) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
