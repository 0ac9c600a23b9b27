"""What a check of every file found, remembered so that an unchanged set is checked once.

Records lie in the user's cache folder (``$XDG_CACHE_HOME/mmssl`` or ``~/.cache/mmssl``) under a hash of the names,
sizes and times of change of all files, and of the settings of the check.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mmssl.config import parse_json
from mmssl.data.limits import MediaError
from mmssl.data.source import FileSource

# reasons that lie in the machine and not in the file: they may be gone next time
_PASSING = ("unreadable", "timeout", "memory")


def record_path(source: FileSource, settings: str) -> Path:
    """Where the record of a check of these files lies, or would."""
    digest = hashlib.blake2b(f"{settings}\n".encode(), digest_size=16)
    for index in range(len(source)):
        size, changed = source.stamp(index)
        digest.update(f"{source.location(index)}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mmssl" / "checked" / f"{digest.hexdigest()}.json"


def load_record(path: Path) -> tuple[Any, dict[int, MediaError]] | None:
    """Facts and failures by file number; None when there is no record or it cannot be understood."""
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
        failures = {int(index): MediaError(kind, reason) for index, (kind, reason) in stored["failures"].items()}
        return stored["facts"], failures
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_record(path: Path, facts: Any, failures: dict[int, MediaError]) -> None:
    """Remember a check, unless a reason in it may pass. A folder that cannot be written means checking again."""
    if any(error.kind in _PASSING for error in failures.values()):
        return
    stored = {
        "facts": facts,
        "failures": {index: (error.kind, error.reason) for index, error in failures.items()},
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(stored), encoding="utf-8")
        partial.replace(path)
