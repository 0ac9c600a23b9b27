"""One JSON object a line, one line a log step: what plots, tests and resuming read."""

import json
import math
import os
from pathlib import Path
from typing import Any

from mmssl.config import parse_json
from mmssl.errors import UserError


def read_journal(file: str | Path) -> list[dict[str, Any]]:
    """All complete lines. A torn last line, left by a kill while writing, is dropped.

    Raises UserError where there is no journal, or a line within it that is no JSON object with a step.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file} does not exist: give the folder of a run that has started")
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except ValueError:
            if number < len(lines):
                raise UserError(f"{file}, line {number} is damaged: delete that line") from None
            continue
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            raise UserError(f"{file} is not the journal of a run: each line needs a step")
        entries.append(entry)
    return entries


class Journal:
    """Appends lines without a buffer, so that a kill costs at most the line being written."""

    def __init__(self, file: Path, resume_step: int | None = None) -> None:
        """``resume_step``: forget lines after this step; they will be written again."""
        self.file = file
        kept = [] if resume_step is None or not file.exists() else read_journal(file)
        kept = [entry for entry in kept if entry["step"] <= (resume_step or 0)]
        staged = file.with_name(file.name + ".new")
        staged.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        os.replace(staged, file)
        self.stream = file.open("ab", buffering=0)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line. Numbers that JSON lacks (nan, inf) become null. Raises OSError where the disk is full."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        line = (json.dumps(clean) + "\n").encode()
        try:
            while line:
                line = line[self.stream.write(line) :]
        except OSError as error:  # it does not say of which file
            raise OSError(error.errno, error.strerror, str(self.file)) from None

    def close(self) -> None:
        """Close the file."""
        self.stream.close()
