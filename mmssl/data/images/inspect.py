"""What is in a folder of images: every file is decoded once and counted."""

import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from mmssl.data.images.decode import decode_image, read_header
from mmssl.data.images.loader import mean_std_of_levels
from mmssl.data.images.looking import SIZES
from mmssl.data.images.open import open_images
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import Limits, MediaError
from mmssl.data.pool import map_files
from mmssl.data.report import QUANTILES, class_counts, overview, print_classes, print_files, quantiles
from mmssl.data.skipped import Skipped
from mmssl.terminal import plain

# Larger images are thinned to about this many pixels for mean and standard deviation.
_STATISTICS_PIXELS = 250_000


@dataclass(frozen=True)
class _Seen:
    """What is remembered of one image."""

    format: str
    mode: str
    height: int
    width: int
    bytes: int
    levels: Float64[np.ndarray, "channel 256"]
    """Share of each grey level in each channel."""


def inspect_images(
    data: str | Path | list[str | Path],
    *,
    split: str | None = None,
    channels: int = 3,
    workers: int | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Decode every image of ``data`` and describe the set; plain numbers, strings, lists and dicts, fit for JSON.

    Mean and standard deviation give every image the same weight, whatever its size. ``workers`` are processes, by
    default one a core up to 8.

    Raises:
        UserError: when the data is missing, may not be read or holds no images.
    """
    source = open_images(data, split=split, channels=channels, limits=limits)
    seen, failures = _look_at_all(source, min(8, os.cpu_count() or 1) if workers is None else workers)
    unreadable = [Skipped(source.files[index], error.reason, error.kind) for index, error in sorted(failures.items())]
    report: dict[str, Any] = {
        "data": source.name,
        "split": split,
        "images": len(source),
        "readable": len(seen),
        "splits": source.splits,
        "held_out": source.held_out,
        "labels": {column: class_counts(source, column) for column in source.label_columns()},
        "unreadable": [asdict(item) for item in unreadable],
        "not_images": [asdict(item) for item in source.skipped],
    }
    if not seen:
        return report
    heights, widths = np.array([(item.height, item.width) for item in seen]).T
    mean, std = mean_std_of_levels(np.mean([item.levels for item in seen], axis=0))
    return report | {
        "formats": dict(Counter(item.format for item in seen).most_common()),
        "modes": dict(Counter(item.mode for item in seen).most_common()),
        "bytes": sum(item.bytes for item in seen),
        "height": quantiles(heights),
        "width": quantiles(widths),
        "short_side": quantiles(np.minimum(heights, widths)),
        "aspect": quantiles(widths / heights),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "suggestion": _suggestion(np.minimum(heights, widths)),
    }


def _look_at_all(source: ImageSource, workers: int) -> tuple[list[_Seen], dict[int, MediaError]]:
    from rich.console import Console
    from rich.progress import Progress

    seen: list[_Seen] = []
    failures: dict[int, MediaError] = {}
    results = map_files(partial(_look, source), source.sequence(), workers=workers, seconds=source.limits.seconds)
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        for index, result in bar.track(results, total=len(source), description="decoding"):
            if isinstance(result, MediaError):
                failures[index] = result
            else:
                seen.append(result)
    return seen, failures


def _look(source: ImageSource, index: int) -> _Seen:
    raw = source.read(index)
    header = read_header(raw, source.limits)
    image = decode_image(raw, source.channels, limits=source.limits)
    step = max(1, round((image.shape[1] * image.shape[2] / _STATISTICS_PIXELS) ** 0.5))
    levels = np.stack([np.bincount(plane.flatten(), minlength=256) for plane in image[:, ::step, ::step].numpy()])
    share = levels / levels.sum(axis=1, keepdims=True)
    return _Seen(header.format, header.mode, image.shape[1], image.shape[2], len(raw), share)


def _suggestion(short_sides: np.ndarray) -> dict[str, int]:
    """The largest usual size that the median image fills; patches so that there are about 64 to 256 of them."""
    size = max((size for size in SIZES if size <= np.median(short_sides)), default=SIZES[0])
    return {"image_size": size, "patch_size": 4 if size < 64 else 8 if size <= 128 else 16}


def print_report(report: dict[str, Any]) -> None:
    """Show what :func:`inspect_images` found, on standard output."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, value in _overview(report):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    if "height" in report:
        numbers = [Column(name, justify="right") for name in QUANTILES]
        sizes = Table("pixels", *numbers, title="sizes", title_justify="left")
        for name in ("height", "width", "short_side"):
            sizes.add_row(name.replace("_", " "), *(f"{value:.0f}" for value in report[name].values()))
        sizes.add_row("width / height", *(f"{value:.2f}" for value in report["aspect"].values()))
        console.print(sizes)
    for column, counts in report["labels"].items():
        print_classes(console, column, counts)
    print_files(console, "cannot be used", report["unreadable"])
    print_files(console, "other files", report["not_images"])


def _overview(report: dict[str, Any]) -> list[tuple[str, str]]:

    rows = overview(report, "images")
    if "height" not in report:
        return rows
    size, patch = report["suggestion"]["image_size"], report["suggestion"]["patch_size"]
    counted = [
        (name, ", ".join(f"{plain(key)} {count:,}" for key, count in report[name].items()))
        for name in ("formats", "modes")
    ]
    return [
        *rows,
        *counted,
        ("on disk", f"{report['bytes'] / 1e6:,.1f} MB"),
        ("mean", "  ".join(f"{value:.4f}" for value in report["mean"]) + "  (channels in 0 to 1)"),
        ("std", "  ".join(f"{value:.4f}" for value in report["std"])),
        ("try", f"--image-size {size} --patch-size {patch}  ({(size // patch) ** 2} patches)"),
    ]
