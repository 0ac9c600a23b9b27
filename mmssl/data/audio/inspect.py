"""What is in a folder of recordings: every one is decoded once and measured."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmssl.data.audio import decode
from mmssl.data.audio.header import AudioLimits, Header
from mmssl.data.audio.source import AudioSource, open_audio
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.data.report import QUANTILES, class_counts, overview, print_classes, print_files, quantiles
from mmssl.data.skipped import Skipped
from mmssl.terminal import plain

FRAME_SECONDS = 0.02
SILENCE_DB = -60.0
"""A frame of 20 ms below this level, relative to full scale, counts as silence."""
_FULL_SCALE = 1 - 2.0**-15
"""The largest 16-bit sample: samples from here on count as clipped."""
_LENGTHS = (0.0, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 300, 3600, np.inf)
"""Edges of the histogram of lengths, in seconds."""


@dataclass(frozen=True)
class _Heard:
    """What is remembered of one recording."""

    header: Header
    frames: int
    bytes: int
    power: float
    """Mean square of the samples of all channels."""
    peak: float
    clipped: int
    """Samples at full scale."""
    silent: float
    """Share of frames of 20 ms that are silence."""


def inspect_audio(
    data: str | Path | list[str | Path],
    *,
    split: str | None = None,
    workers: int | None = None,
    limits: AudioLimits | None = None,
) -> dict[str, Any]:
    """Decode every recording of ``data`` and describe the set; plain numbers, strings, lists and dicts, fit for JSON.

    ``workers`` are processes, by default one a core up to 8.

    Raises:
        UserError: when the data is missing, may not be read or holds no recordings.
    """
    source = open_audio(data, split=split, limits=limits)
    heard, failures = _listen_to_all(source, min(8, os.cpu_count() or 1) if workers is None else workers)
    unreadable = [Skipped(source.files[index], error.reason, error.kind) for index, error in sorted(failures.items())]
    report: dict[str, Any] = {
        "data": source.name,
        "split": split,
        "recordings": len(source),
        "readable": len(heard),
        "splits": source.splits,
        "held_out": source.held_out,
        "labels": {column: class_counts(source, column) for column in source.label_columns()},
        "unreadable": [asdict(item) for item in unreadable],
        "not_recordings": [asdict(item) for item in source.skipped],
    }
    if not heard:
        return report
    seconds = np.array([item.frames / item.header.rate for item in heard])
    samples = np.array([item.frames * item.header.channels for item in heard], np.float64)
    clipped = np.array([item.clipped for item in heard])
    return report | {
        "hours": float(seconds.sum() / 3600),
        "bytes": sum(item.bytes for item in heard),
        "formats": _counted(item.header.format for item in heard),
        "rates": _counted(item.header.rate for item in heard),
        "channels": _counted(item.header.channels for item in heard),
        "seconds": quantiles(seconds),
        "histogram": _histogram(seconds),
        "loudness": quantiles(_decibels(np.sqrt([item.power for item in heard]))),
        "peak": quantiles(_decibels(np.array([item.peak for item in heard]))),
        "silence": float(np.average([item.silent for item in heard], weights=seconds)),
        "clipping": float(clipped.sum() / samples.sum()),
        "clipped": int((clipped > 0).sum()),
        "all_silent": sum(item.peak == 0 for item in heard),
        "shorter": sum(item.frames < item.header.frames - 0.1 * item.header.rate for item in heard),
    }


def _listen_to_all(source: AudioSource, workers: int) -> tuple[list[_Heard], dict[int, MediaError]]:
    from rich.console import Console
    from rich.progress import Progress

    heard: list[_Heard] = []
    failures: dict[int, MediaError] = {}
    headers = source.headers(workers)
    longest = max((item.seconds for item in headers if isinstance(item, Header)), default=0.0)
    results = map_files(
        partial(_listen, source, headers), range(len(source)), workers=workers, seconds=source.limits.patience(longest)
    )
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        for index, result in bar.track(results, total=len(source), description="decoding"):
            if isinstance(result, MediaError):
                failures[index] = result
            else:
                heard.append(result)
    return heard, failures


def _listen(source: AudioSource, headers: list[Header | MediaError], index: int) -> _Heard:
    header = headers[index]
    if isinstance(header, MediaError):
        raise header
    frames = clipped = windows = silent = 0
    squares, peak = 0.0, 0.0
    blocks = decode.blocks(source.extent(index), header, source.limits)
    for block in _regrouped(blocks, header.rate):
        size = np.abs(block)
        frames += len(block)
        squares += float(np.square(block, dtype=np.float64).sum())
        peak = max(peak, float(size.max()))
        clipped += int((size >= _FULL_SCALE).sum())
        power = _frame_power(decode.mix(block), header.rate)
        windows += len(power)
        silent += int((power < 10 ** (SILENCE_DB / 10)).sum())
    if not frames:
        raise MediaError("broken", "it has no samples")
    power = squares / (frames * header.channels)
    return _Heard(header, frames, source.stamp(index)[0], power, peak, clipped, silent / max(windows, 1))


def _regrouped(
    blocks: Iterator[Float32[np.ndarray, "_ _"]], size: int
) -> Iterator[Float32[np.ndarray, "frame channel"]]:
    """The same frames in multiples of ``size``; what is left comes last."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= size:
            whole = np.concatenate(waiting)
            used = count // size * size
            yield whole[:used]
            waiting, count = [whole[used:]], count - used
    if count:
        yield np.concatenate(waiting)


def _frame_power(samples: Float32[np.ndarray, " frame"], rate: int) -> np.ndarray:
    """Mean square of each whole frame of 20 ms, of the whole when it is shorter."""
    size = min(max(1, round(FRAME_SECONDS * rate)), len(samples))
    return np.square(samples[: len(samples) // size * size].reshape(-1, size)).mean(1)


def _decibels(level: np.ndarray) -> np.ndarray:
    """Relative to full scale; digital silence counts as -200 dB."""
    return 20 * np.log10(np.maximum(level, 1e-10))


def _counted(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _histogram(seconds: np.ndarray) -> list[dict[str, float]]:
    """Recordings and hours by length, from the first class that is not empty to the last."""
    place = np.searchsorted(_LENGTHS, seconds, side="right") - 1
    return [
        {
            "from": float(_LENGTHS[number]),
            "to": float(_LENGTHS[number + 1]),
            "recordings": int((place == number).sum()),
            "hours": float(seconds[place == number].sum() / 3600),
        }
        for number in range(int(place.min()), int(place.max()) + 1)
    ]


def print_audio_report(report: dict[str, Any]) -> None:
    """Show what :func:`inspect_audio` found, on standard output."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, value in _overview(report):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    if "hours" in report:
        numbers = [Column(name, justify="right") for name in QUANTILES]
        levels = Table("a recording", *numbers, title="lengths and levels", title_justify="left")
        levels.add_row("seconds", *(f"{value:,.2f}" for value in report["seconds"].values()))
        levels.add_row("loudness, dBFS", *(f"{value:.1f}" for value in report["loudness"].values()))
        levels.add_row("peak, dBFS", *(f"{value:.1f}" for value in report["peak"].values()))
        console.print(levels)
        lengths = Table("seconds", Column("recordings", justify="right"), Column("hours", justify="right"))
        for row in report["histogram"]:
            upper = "more" if row["to"] == np.inf else f"{row['to']:g}"
            lengths.add_row(f"{row['from']:g} to {upper}", f"{row['recordings']:,}", f"{row['hours']:.3f}")
        console.print(lengths)
    for column, counts in report["labels"].items():
        print_classes(console, column, counts)
    print_files(console, "cannot be used", report["unreadable"])
    print_files(console, "other files", report["not_recordings"])


def _overview(report: dict[str, Any]) -> list[tuple[str, str]]:

    rows = overview(report, "recordings")
    if "hours" not in report:
        return rows
    counted = [
        (title, ", ".join(f"{plain(key)}{unit} {count:,}" for key, count in report[name].items()))
        for title, name, unit in (
            ("formats", "formats", ":"),
            ("rates", "rates", " Hz:"),
            ("channels", "channels", ":"),
        )
    ]
    clipping = f"{report['clipping']:.2%} of all samples are at full scale, in {report['clipped']:,} recordings"
    odd = [
        (name, f"{report[key]:,} recordings")
        for name, key in (("all zero", "all_silent"), ("shorter than promised", "shorter"))
        if report[key]
    ]
    return [
        *rows,
        ("length", f"{report['hours']:.2f} h, {report['bytes'] / 1e6:,.1f} MB on disk"),
        *counted,
        ("silence", f"{report['silence']:.1%} of the time is below {SILENCE_DB:g} dBFS"),
        ("clipping", clipping),
        *odd,
    ]
