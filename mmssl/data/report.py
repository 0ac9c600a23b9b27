"""What the reports of `mmssl inspect` on files have in common."""

from collections import Counter
from typing import Any

import numpy as np

from mmssl.data.source import FileSource
from mmssl.errors import UserError
from mmssl.terminal import plain

QUANTILES = {"min": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "max": 100}
_SHOWN_CLASSES = 30
_SHOWN_FILES = 20


def quantiles(values: np.ndarray) -> dict[str, float]:
    return {name: float(np.percentile(values, share)) for name, share in QUANTILES.items()}


def class_counts(source: FileSource, column: str) -> dict[str, dict[str, int]] | str:
    """Files by class and split; a sentence when there are files without a label."""
    try:
        targets, names = source.labels(column)
    except UserError as error:
        return str(error)
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    for target, split in zip(targets.tolist(), source.file_splits(), strict=True):
        counts[names[target]][split or "all"] = counts[names[target]].get(split or "all", 0) + 1
    return counts


def overview(report: dict[str, Any], what: str) -> list[tuple[str, str]]:
    """The first rows of a report: which data, how many files, which splits."""
    unused = report[what] - report["readable"]
    splits = ", ".join(f"{plain(name)} {count:,}" for name, count in report["splits"].items())
    return [
        ("data", plain(report["data"]) + (f" (split {plain(report['split'])})" if report["split"] else "")),
        (what, f"{report[what]:,}" + (f", of which {unused:,} cannot be used" if unused else ", all readable")),
        ("splits", splits + (" (no validation split: held out by name)" if report["held_out"] else "")),
    ]


def print_classes(console: Any, column: str, counts: dict[str, dict[str, int]] | str) -> None:
    """A table of :func:`class_counts`."""
    from rich.table import Column, Table

    if isinstance(counts, str):
        console.print(f"[bold]labels '{plain(column)}'[/]: {plain(counts)}")
        return
    splits = sorted({split for count in counts.values() for split in count})
    numbers = [Column(plain(split), justify="right") for split in splits]
    table = Table("class", *numbers, title=f"labels '{plain(column)}'", title_justify="left")
    for name, count in list(counts.items())[:_SHOWN_CLASSES]:
        table.add_row(plain(name), *(f"{count.get(split, 0):,}" for split in splits))
    console.print(table)
    if len(counts) > _SHOWN_CLASSES:
        console.print(f"... and {len(counts) - _SHOWN_CLASSES:,} more classes")


def print_files(console: Any, title: str, files: list[dict[str, str]]) -> None:
    """Files and reasons, the first twenty."""
    if not files:
        return
    console.print(f"\n[bold]{title}[/] ({len(files):,})")
    for item in files[:_SHOWN_FILES]:
        console.print(f"  {plain(item['file'])}: {plain(item['reason'])}", soft_wrap=True)
    if len(files) > _SHOWN_FILES:
        kinds = Counter(item["kind"] for item in files).most_common()
        console.print(f"  ... in all: {', '.join(f'{count:,} {kind}' for kind, count in kinds)}")
