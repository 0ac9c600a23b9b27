"""What is in a folder of videos: every one is decoded once, both streams are measured on their common clock."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files
from mmssl.data.report import QUANTILES, class_counts, overview, print_classes, print_files, quantiles
from mmssl.data.skipped import Skipped
from mmssl.data.video.doctor import SILENCE_DB, Examined, examine, findings
from mmssl.data.video.limits import VideoLimits
from mmssl.data.video.source import VideoSource, open_videos
from mmssl.terminal import plain


def inspect_video(
    data: str | Path | list[str | Path],
    *,
    split: str | None = None,
    workers: int | None = None,
    limits: VideoLimits | None = None,
) -> dict[str, Any]:
    """Decode every video of ``data`` and describe the set; plain numbers, strings, lists and dicts, fit for JSON.

    ``workers`` are processes, by default one a core up to 8; 0 decodes in this one.

    Raises:
        UserError: when the data is missing, may not be read or holds no videos.
    """
    source = open_videos(data, split=split, limits=limits)
    seen, failures = _examine_all(source, min(8, os.cpu_count() or 1) if workers is None else workers)
    unreadable = [Skipped(source.files[index], error.reason, error.kind) for index, error in sorted(failures.items())]
    report: dict[str, Any] = {
        "data": source.name,
        "split": split,
        "videos": len(source),
        "readable": len(seen),
        "splits": source.splits,
        "held_out": source.held_out,
        "labels": {column: class_counts(source, column) for column in source.label_columns()},
        "unreadable": [asdict(item) for item in unreadable],
        "not_videos": [asdict(item) for item in source.skipped],
    }
    if not seen:
        return report
    items = list(seen.values())
    seconds = np.array([item.seconds for item in items])
    streams = [item.streams for item in items]
    return report | {
        "hours": float(seconds.sum() / 3600),
        "bytes": sum(item.bytes for item in items),
        "formats": _counted(item.format for item in streams),
        "sizes": _counted(f"{item.width}x{item.height}" for item in streams),
        "turned": sum(item.rotation != 0 for item in streams),
        "frame_rates": _counted(f"{item.frame_rate:.2f}" for item in streams),
        "sample_rates": _counted(f"{item.rate}" for item in streams),
        "channels": _counted(f"{item.channels}" for item in streams),
        "seconds": quantiles(seconds),
        "offset_ms": quantiles(1000 * np.array([item.offset for item in streams])),
        "end_ms": quantiles(1000 * np.array([item.audio_end - item.video_end for item in streams])),
        "repeated": quantiles(100 * np.array([item.repeated for item in items])),
        "loudness": quantiles(np.array([item.loudness for item in items])),
        "silence": float(np.average([item.silent for item in items], weights=seconds)),
        "findings": [
            {"file": source.files[index], "kind": kind, "reason": said}
            for index, item in sorted(seen.items())
            for kind, said in findings(item)
        ],
    }


def _examine_all(source: VideoSource, workers: int) -> tuple[dict[int, Examined], dict[int, MediaError]]:
    from rich.console import Console
    from rich.progress import Progress

    seen: dict[int, Examined] = {}
    failures: dict[int, MediaError] = {}
    everything = range(len(source))
    patience = source.limits.patience_of_bytes(max(source.stamp(index)[0] for index in everything))
    results = map_files(partial(_examine, source), everything, workers=workers, seconds=patience, method="spawn")
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        for index, result in bar.track(results, total=len(source), description="decoding"):
            if isinstance(result, MediaError):
                failures[index] = result
            else:
                seen[index] = result
    return seen, failures


def _examine(source: VideoSource, index: int) -> Examined:
    return examine(source.extent(index), source.limits)


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def print_video_report(report: dict[str, Any]) -> None:
    """Show what :func:`inspect_video` found, on standard output."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, value in _overview(report):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    if "hours" in report:
        numbers = [Column(name, justify="right") for name in QUANTILES]
        measures = Table("a video", *numbers, title="lengths, starts and levels", title_justify="left")
        measures.add_row("seconds with both", *(f"{value:,.2f}" for value in report["seconds"].values()))
        measures.add_row("sound begins after the picture, ms", *(f"{v:.0f}" for v in report["offset_ms"].values()))
        measures.add_row("sound ends after the picture, ms", *(f"{v:.0f}" for v in report["end_ms"].values()))
        measures.add_row("repeated pictures, %", *(f"{value:.0f}" for value in report["repeated"].values()))
        measures.add_row("loudness, dBFS", *(f"{value:.1f}" for value in report["loudness"].values()))
        console.print(measures)
    for column, counts in report["labels"].items():
        print_classes(console, column, counts)
    print_files(console, "worth a look", report.get("findings", []))
    print_files(console, "cannot be used", report["unreadable"])
    print_files(console, "other files", report["not_videos"])


def _overview(report: dict[str, Any]) -> list[tuple[str, str]]:

    rows = overview(report, "videos")
    if "hours" not in report:
        return rows
    counted = [
        (title, ", ".join(f"{plain(key)}{unit} {count:,}" for key, count in report[name].items()))
        for title, name, unit in (
            ("formats", "formats", ":"),
            ("pixels", "sizes", ":"),
            ("frames/s", "frame_rates", ":"),
            ("sound", "sample_rates", " Hz:"),
            ("channels", "channels", ":"),
        )
    ]
    found = Counter(item["kind"] for item in report["findings"])
    odd = ", ".join(f"{kind} {count:,}" for kind, count in found.most_common()) or "nothing"
    return [
        *rows,
        ("length", f"{report['hours']:.2f} h with picture and sound, {report['bytes'] / 1e6:,.1f} MB on disk"),
        *counted,
        *([("turned", f"{report['turned']:,} videos are stored on their side")] if report["turned"] else []),
        ("silence", f"{report['silence']:.1%} of the time is below {SILENCE_DB:g} dBFS"),
        ("odd", odd),
    ]
