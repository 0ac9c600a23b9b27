"""Every file decoded once before training, so that training meets no broken file; the result is remembered.

The record of a check lies in the user's cache folder (``$XDG_CACHE_HOME/mmssl`` or ``~/.cache/mmssl``) under a hash of
the names, sizes and times of change of all files, so an unchanged set is checked once and a changed one again. Sets of
more than CHECK_LIMIT images are checked by their headers only, which finds empty, foreign and cut files but no damage
in the middle of one.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mmssl.data.images.cache import kept_size
from mmssl.data.images.decode import decode_image, read_header
from mmssl.data.images.jpeg import read_jpeg_header
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files

CHECK_LIMIT = 200_000
_PREDICTION_IMAGES = 64
_VERSION = 1


def check_images(
    source: ImageSource,
    *,
    min_size: tuple[int, int] = (1, 1),
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int64[np.ndarray, "image 2"], dict[int, MediaError]]:
    """Upright height and width of every image, and which cannot be used, and why."""
    record = _record_path(source)
    count = len(source)
    sizes_and_failures = _load(record, count)
    if sizes_and_failures is None:
        look = partial(_look, source, count <= CHECK_LIMIT)
        sizes = np.zeros((count, 2), np.int64)
        failures: dict[int, MediaError] = {}
        results = map_files(look, range(count), workers=workers, seconds=source.limits.seconds)
        for done, (index, result) in enumerate(results, 1):
            if isinstance(result, MediaError):
                failures[index] = result
            else:
                sizes[index] = result
            if progress is not None:
                progress(done, count)
        _save(record, sizes, failures)
    else:
        sizes, failures = sizes_and_failures
    for index in np.flatnonzero((sizes < min_size).any(axis=1)).tolist():
        if index not in failures:
            failures[index] = too_small(sizes[index][0], sizes[index][1], min_size)
    return sizes, failures


def too_small(height: int, width: int, least: tuple[int, int]) -> MediaError:
    return MediaError("small", f"{width}x{height} pixels are fewer than the least of {least[1]}x{least[0]}")


def predicted_cache_bytes(source: ImageSource, size: tuple[int, int]) -> int:
    """What a pixel cache would take, from the headers of 64 images evenly spaced."""
    count = min(_PREDICTION_IMAGES, len(source))
    kept = []
    for place in range(count):
        with contextlib.suppress(MediaError):
            header = read_header(source.read(place * len(source) // count), source.limits)
            kept.append(np.prod(kept_size(header.height, header.width, size)))
    return int(np.mean(kept) * len(source) * source.channels) if kept else 0


def _look(source: ImageSource, whole: bool, index: int) -> tuple[int, int]:
    raw = source.read(index)
    header = read_header(raw, source.limits)
    if whole:
        decode_image(raw, source.channels, limits=source.limits)
    elif raw[:2] == b"\xff\xd8":
        jpeg = read_jpeg_header(raw)
        if jpeg is not None and not jpeg.ends:
            raise MediaError("broken", "the file ends too early (no end marker)")
    return header.height, header.width


def _record_path(source: ImageSource) -> Path:
    digest = hashlib.blake2b(f"{_VERSION} {source.channels} {source.limits}\n".encode(), digest_size=16)
    for index in range(len(source)):
        size, changed = source.stamp(index)
        digest.update(f"{source.location(index)}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mmssl" / "checked" / f"{digest.hexdigest()}.json"


def _load(path: Path, count: int) -> tuple[np.ndarray, dict[int, MediaError]] | None:
    """A remembered check; None when there is none or it cannot be understood (then we check again)."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        sizes = np.array(stored["sizes"], np.int64).reshape(-1, 2)
        failures = {int(index): MediaError(kind, reason) for index, (kind, reason) in stored["failures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return (sizes, failures) if len(sizes) == count else None


def _save(path: Path, sizes: np.ndarray, failures: dict[int, MediaError]) -> None:
    """Remember a check. A cache folder that cannot be written only means checking again next time.

    Reasons that lie in the machine and not in the file are forgotten: they may be gone next time.
    """
    if any(error.kind in ("unreadable", "timeout", "memory") for error in failures.values()):
        return
    stored = {
        "sizes": sizes.tolist(),
        "failures": {index: (error.kind, error.reason) for index, error in failures.items()},
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_name(f"{path.name}.{os.getpid()}")
        partial_path.write_text(json.dumps(stored), encoding="utf-8")
        partial_path.replace(path)
