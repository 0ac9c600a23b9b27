"""Every file decoded once before training, so that training meets no broken file; the result is remembered.

The record of a check (:mod:`mmssl.data.record`) is kept, so an unchanged set is checked once. Sets of more than
CHECK_LIMIT images are checked by their headers only, which finds empty, foreign and cut files but no damage in the
middle of one.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from mmssl.data.images.cache import kept_size
from mmssl.data.images.decode import decode_image, read_header
from mmssl.data.images.jpeg import read_jpeg_header
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.data.record import load_record, record_path, save_record

CHECK_LIMIT = 200_000
_PREDICTION_IMAGES = 64
_VERSION = 2


def check_images(
    source: ImageSource,
    *,
    min_size: tuple[int, int] = (1, 1),
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Integer[np.ndarray, "image 2"], dict[int, MediaError]]:
    """Upright height and width of every image, and which cannot be used, and why."""
    if source.sizes is not None:
        return _known(source, source.sizes, min_size)
    record = record_path(source, f"{_VERSION} {source.channels} {source.limits}")
    count = len(source)
    facts, failures = load_record(record) or (None, {})
    sizes = _sizes(facts, count)
    if sizes is None:
        look = partial(_look, source, count <= CHECK_LIMIT)
        sizes = np.zeros((count, 2), np.int64)
        failures = {}
        results = map_files(look, range(count), workers=workers, seconds=source.limits.seconds)
        for done, (index, result) in enumerate(results, 1):
            if isinstance(result, MediaError):
                failures[index] = result
            else:
                sizes[index] = result
            if progress is not None:
                progress(done, count)
        save_record(record, sizes.tolist(), failures)
    for index in np.flatnonzero((sizes < min_size).any(axis=1)).tolist():
        if index not in failures:
            failures[index] = too_small(int(sizes[index][0]), int(sizes[index][1]), min_size)
    return sizes, failures


def _known(
    source: ImageSource, sizes: Integer[np.ndarray, "image 2"], min_size: tuple[int, int]
) -> tuple[Integer[np.ndarray, "image 2"], dict[int, MediaError]]:
    """The same of a set of shards, whose pictures were decoded when it was made."""
    assert source.index is not None
    failures = source.index.failures()
    if not source.all_at_least(min_size):
        for index in np.flatnonzero((sizes < min_size).any(axis=1)).tolist():
            if index not in failures:
                failures[index] = too_small(int(sizes[index][0]), int(sizes[index][1]), min_size)
    return sizes, failures


def too_small(height: int, width: int, least: tuple[int, int]) -> MediaError:
    return MediaError("small", f"{width}x{height} pixels are fewer than the least of {least[1]}x{least[0]}")


def predicted_cache_bytes(source: ImageSource, size: tuple[int, int], zoom: tuple[float, float] | None = None) -> int:
    """What a pixel cache would take, from the headers of 64 images evenly spaced."""
    count = min(_PREDICTION_IMAGES, len(source))
    kept = []
    for place in range(count):
        with contextlib.suppress(MediaError):
            kept.append(np.prod(kept_size(*source.size_of(place * len(source) // count), size, zoom)))
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


def _sizes(facts: Any, count: int) -> Int64[np.ndarray, "image 2"] | None:
    """The remembered sizes; None when they are not of these images."""
    try:
        sizes = np.array(facts, np.int64).reshape(-1, 2)
    except (ValueError, TypeError):
        return None
    return sizes if len(sizes) == count else None
