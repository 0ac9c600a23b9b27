"""Every recording decoded once before training: training meets no broken file, and all lengths are exact.

What was found is remembered (:mod:`mmssl.data.record`). Sets of more than CHECK_HOURS are checked by their headers
only, which finds empty and foreign files and videos without sound, but no damage in the middle of a file.
"""

from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from typing import Any

from mmssl.data.audio import decode
from mmssl.data.audio.header import Header
from mmssl.data.audio.source import AudioSource
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.data.record import load_record, record_path, save_record

CHECK_HOURS = 1000.0
HARMLESS = ("no sound", "silent", "short")
"""Kinds of files that are left out and do not count as broken: nothing is wrong with them."""
_VERSION = 2


def check_recordings(
    source: AudioSource, *, workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> dict[int, MediaError]:
    """Which recordings cannot be used, and why. Afterwards the headers of ``source`` have exact lengths."""
    if source.index is not None and source.index.records() is not None:  # they were decoded when they were sharded
        return {index: item for index, item in enumerate(source.headers()) if isinstance(item, MediaError)}
    record = record_path(source, f"audio {_VERSION} {source.limits}")
    facts, failures = load_record(record) or (None, {})
    headers = _headers(facts, failures, len(source))
    if headers is None:
        headers = source.headers(workers, progress)
        if sum(item.seconds for item in headers if isinstance(item, Header)) <= 3600 * CHECK_HOURS:
            headers = _listen_to_all(source, headers, workers, progress)
        failures = {index: item for index, item in enumerate(headers) if isinstance(item, MediaError)}
        save_record(record, [astuple(item) if isinstance(item, Header) else None for item in headers], failures)
    source.trust(headers)
    return failures


def _listen_to_all(
    source: AudioSource, headers: list[Header | MediaError], workers: int, progress: Callable[[int, int], None] | None
) -> list[Header | MediaError]:
    result = list(headers)
    readable = [index for index, item in enumerate(headers) if isinstance(item, Header)]
    longest = max((item.seconds for item in headers if isinstance(item, Header)), default=0.0)
    heard = map_files(
        partial(listen, source, headers), readable, workers=workers, seconds=source.limits.patience(longest)
    )
    for done, (index, frames) in enumerate(heard, 1):
        header = headers[index]
        if isinstance(frames, MediaError):
            result[index] = frames
        elif isinstance(header, Header):
            result[index] = replace(header, frames=frames)
        if progress is not None:
            progress(done, len(readable))
    return result


def listen(source: AudioSource, headers: list[Header | MediaError], index: int) -> int:
    """Decode a recording; the number of its frames. Raises MediaError, also when all of it is digital silence."""
    header = headers[index]
    assert isinstance(header, Header)
    frames, silent = 0, True
    for block in decode.blocks(source.extent(index), header, source.limits):
        frames += len(block)
        silent = silent and not block.any()
    return checked_length(frames, silent)


def checked_length(frames: int, silent: bool) -> int:
    """The number of frames. Raises MediaError when there is nothing to hear in them."""
    if not frames:
        raise MediaError("broken", "it has no samples")
    if silent:
        raise MediaError("silent", "every sample is zero")
    return frames


def _headers(facts: Any, failures: dict[int, MediaError], count: int) -> list[Header | MediaError] | None:
    """The remembered headers; None when they are not of these recordings."""
    try:
        headers = [failures[index] if item is None else Header(*item) for index, item in enumerate(facts)]
    except (TypeError, KeyError):
        return None
    return headers if len(headers) == count else None
