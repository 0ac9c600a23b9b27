"""A probe's results for the eye and for other programs: table, JSON, figure."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.evaluation.probe_results import (
    BEST_LAYER,
    PRETRAINED,
    RAW,
    UNTRAINED,
    ProbeReport,
    ProbeResult,
    last_layer,
)
from mmssl.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console

METHODS = {"linear": "linear probe", "knn": "20 nearest neighbours", "finetune": "fine-tuned"}
COLOURS = {PRETRAINED: "#1668b0", UNTRAINED: "#d1730f", RAW: "#6b6b6b"}
"""Told apart in grey and by colour-blind readers; the marker differs too."""
STYLES = {"linear": "-", "finetune": "--"}
MARKERS = {"mean": "o", "cls": "s", "flat": "^", BEST_LAYER: "*"}


def print_report(report: ProbeReport, console: "Console | None" = None) -> None:
    """Print a table: a row a representation, a column a number of labels, accuracies in per cent."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    budgets = sorted({result.labels for result in report.results})
    what = f"'{plain(report.label)}'" if report.label else "the label"
    title = f"Accuracy in % at telling {what} ({len(report.names)} classes) from few to all labels"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("")
    for budget in budgets:
        prefix = "all " if budget == report.train_samples else ""
        table.add_column(f"{prefix}{budget:,}", justify="right", no_wrap=True)
    for method, name in METHODS.items():
        rows = _rows(report, method)
        if rows:
            table.add_row(name, style="italic")
        for row in rows:
            cells = [_cell(report.results, (*row, method, budget)) for budget in budgets]
            style = "bold" if row[0] == PRETRAINED else None
            table.add_row("  " + _row_name(report, *row, method), *cells, style=style)
        if rows:
            table.add_section()
    console = console or Console()
    console.print(table)
    console.print(plain("\n".join([_footnote(report), *report.notes])), style="dim")


def _rows(report: ProbeReport, method: str) -> list[tuple[str, str]]:
    """Representation and feature of a method's rows: pretrained first, raw input last. Single layers have none."""
    found = {
        (result.representation, result.feature)
        for result in report.results
        if result.method == method and not result.feature.startswith("layer ")
    }
    order = {PRETRAINED: 0, UNTRAINED: 1, RAW: 2}
    features = {"mean": 0, "cls": 1, BEST_LAYER: 2}
    return sorted(found, key=lambda row: (order[row[0]], features.get(row[1], 3), row[1]))


def _row_name(report: ProbeReport, representation: str, feature: str, method: str) -> str:
    if (representation, method) == (UNTRAINED, "finetune"):
        return "random init (scratch)"
    if feature == BEST_LAYER:
        chosen = report.find(representation, feature, method).layers
        return f"{representation}, {feature} ({', '.join(map(str, chosen))})"
    return report.raw if representation == RAW else f"{representation}, {feature}"


def _cell(results: Sequence[ProbeResult], wanted: tuple[str, str, str, int]) -> str:
    for result in results:
        if (result.representation, result.feature, result.method, result.labels) == wanted:
            return f"{100 * result.mean:.1f}" + (f" ± {100 * result.std:.1f}" if result.std is not None else "")
    return ""


def _footnote(report: ProbeReport) -> str:
    best = max((result.mean for result in report.results), default=report.chance)
    sampling = 100 * math.sqrt(best * (1 - best) / report.test_samples)
    spread = f"±: standard deviation over {report.seeds} seeds (other labels drawn, other initialisations). "
    layers = any(result.layers for result in report.results)
    best_layer = "Best layer: chosen on held-out training samples, its number in brackets. " if layers else ""
    return (
        f"Chance {100 * report.chance:.1f}, most frequent class {100 * report.majority:.1f}. {best_layer}"
        f"{spread if report.seeds > 1 else 'One seed: no spread is known. '}"
        f"{report.test_samples:,} test samples, from which alone comes an uncertainty of about {sampling:.1f}."
    )


def save_report(report: ProbeReport, folder: Path) -> tuple[Path, Path]:
    """Write ``probe.json`` and ``probe.png`` (``probe-LABEL`` where the label has a name); returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"probe-{report.label}" if report.label else "probe"
    numbers, figure = folder / f"{stem}.json", folder / f"{stem}.png"
    numbers.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    draw_figure(report, figure)
    return numbers, figure


def draw_figure(report: ProbeReport, file: Path) -> None:
    """Write :func:`probe_figure` as PNG."""
    probe_figure(report).savefig(file)


def probe_figure(report: ProbeReport) -> "Figure":
    """Accuracy against number of labels, a line a classifier and representation, with bars of one std; and, where
    layers were probed, against depth. Notebooks display it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depths = _by_depth(report)
    figure = Figure(figsize=(12.4 if depths else 8.4, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if depths:
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        _draw_budgets(left, report)
        _draw_depths(right, depths, report)
    else:
        _draw_budgets(figure.add_subplot(), report)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, handlelength=3.2)
    return figure


def _by_depth(report: ProbeReport) -> dict[str, list[tuple[int, float, float]]]:
    """Number of the layer, accuracy and its std in %, by representation; the last is that after all blocks."""
    depths: dict[str, list[tuple[int, float, float]]] = {}
    for result in report.results:
        if result.method == "linear" and result.labels == report.train_samples and result.feature.startswith("layer "):
            number = int(result.feature.removeprefix("layer "))
            depths.setdefault(result.representation, []).append((number, 100 * result.mean, 100 * (result.std or 0.0)))
    for representation, points in depths.items():
        name = last_layer([found.feature for found in report.results if found.representation == representation])
        last = report.find(representation, name or "mean", "linear")
        points.append((len(points) + 1, 100 * last.mean, 100 * (last.std or 0.0)))
        points.sort()
    return depths


def _draw_depths(axes: "Axes", depths: dict[str, list[tuple[int, float, float]]], report: ProbeReport) -> None:
    """Linear probes with all labels after each block; the raw input as a line."""
    for representation, points in depths.items():
        numbers, means, stds = zip(*points, strict=True)
        axes.errorbar(
            numbers, means, stds, color=COLOURS[representation], linewidth=1.6, capsize=2.5, elinewidth=1,
            marker="o", markersize=5,
        )  # fmt: skip
    for result in report.results:
        if (result.representation, result.method, result.labels) == (RAW, "linear", report.train_samples):
            axes.axhline(100 * result.mean, color=COLOURS[RAW], linewidth=1.6)
    axes.set_xticks(sorted({number for points in depths.values() for number, _, _ in points}))
    axes.set_xlabel("mean of the tokens after layer")
    axes.set_title(f"Linear probe by layer, {report.train_samples:,} labels", loc="left")
    axes.grid(alpha=0.25)


def _draw_budgets(axes: "Axes", report: ProbeReport) -> None:
    """A line a classifier and representation."""
    lines = [(*row, method) for method in STYLES for row in _rows(report, method)]
    for place, (representation, feature, method) in enumerate(lines):
        points = sorted(
            (result.labels, 100 * result.mean, 100 * (result.std or 0.0))
            for result in report.results
            if (result.representation, result.feature, result.method) == (representation, feature, method)
        )
        budgets, means, stds = zip(*points, strict=True)
        aside = 1.02 ** (place - len(lines) / 2)  # so that the bars of neighbours can be told apart
        axes.errorbar(
            [budget * aside for budget in budgets], means, stds,
            label=f"{METHODS[method]}: {_row_name(report, representation, feature, method)}",
            color=COLOURS[representation], linestyle=STYLES[method], linewidth=1.6, capsize=2.5, elinewidth=1,
            marker=MARKERS.get(feature, "D"), markersize=5, markerfacecolor="white" if feature == "cls" else None,
        )  # fmt: skip
    axes.axhline(100 * report.chance, color="#777777", linewidth=1, linestyle=":")
    axes.text(
        0.99, 100 * report.chance, "chance", transform=axes.get_yaxis_transform(), ha="right", va="bottom", size=8
    )
    axes.set_xscale("log")
    ticks = sorted({result.labels for result in report.results})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labelled samples")
    axes.set_ylabel("test accuracy in %")
    axes.set_title(f"Telling {report.label!r} apart" if report.label else "Telling the label apart", loc="left")
    axes.grid(alpha=0.25)
