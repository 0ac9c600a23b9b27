"""A probe's results for the eye and for other programs: table, JSON, figure."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.evaluation.probes import PRETRAINED, RAW, UNTRAINED, ProbeReport, ProbeResult

if TYPE_CHECKING:
    from rich.console import Console

METHODS = {"linear": "linear probe", "knn": "20 nearest neighbours", "finetune": "fine-tuned"}
COLOURS = {PRETRAINED: "#1668b0", UNTRAINED: "#d1730f", RAW: "#6b6b6b"}
"""Told apart in grey and by colour-blind readers; the marker differs too."""
STYLES = {"linear": "-", "finetune": "--"}
MARKERS = {"mean": "o", "cls": "s", "flat": "^"}


def print_report(report: ProbeReport, console: "Console | None" = None) -> None:
    """Print a table: a row a classifier and representation, a column a number of labels, accuracies in per cent."""
    from rich.console import Console
    from rich.table import Table

    budgets = sorted({result.labels for result in report.results})
    what = f"'{report.label}'" if report.label else "the label"
    table = Table(title=f"Accuracy in % at telling {what} ({len(report.names)} classes) by number of labels")
    for title in ("classifier", "on", "feature"):
        table.add_column(title, no_wrap=True)
    for budget in budgets:
        table.add_column(f"all {budget:,}" if budget == report.train_samples else f"{budget:,}", justify="right")
    for method in METHODS:
        rows = _rows(report, method)
        for index, (representation, feature) in enumerate(rows):
            cells = [_cell(report.results, representation, feature, method, budget) for budget in budgets]
            style = "bold" if representation == PRETRAINED else None
            name = _representation_name(representation, method)
            table.add_row(METHODS[method] if index == 0 else "", name, feature, *cells, style=style)
        if rows:
            table.add_section()
    console = console or Console()
    console.print(table)
    console.print(_footnote(report), style="dim")


def _rows(report: ProbeReport, method: str) -> list[tuple[str, str]]:
    """Representation and feature of a method's rows: pretrained first, raw input last."""
    found = {(result.representation, result.feature) for result in report.results if result.method == method}
    order = {PRETRAINED: 0, UNTRAINED: 1, RAW: 2}
    features = {"mean": 0, "cls": 1}
    return sorted(found, key=lambda row: (order[row[0]], features.get(row[1], 2), row[1]))


def _representation_name(representation: str, method: str) -> str:
    return "from scratch" if (representation, method) == (UNTRAINED, "finetune") else representation


def _cell(results: Sequence[ProbeResult], representation: str, feature: str, method: str, labels: int) -> str:
    for result in results:
        if (result.representation, result.feature, result.method, result.labels) == (
            representation,
            feature,
            method,
            labels,
        ):
            spread = f" ± {100 * result.std:.1f}" if result.std is not None else ""
            return f"{100 * result.mean:.1f}{spread}"
    return ""


def _footnote(report: ProbeReport) -> str:
    best = max((result.mean for result in report.results), default=report.chance)
    sampling = 100 * math.sqrt(best * (1 - best) / report.test_samples)
    return (
        f"chance {100 * report.chance:.1f}, most frequent class {100 * report.majority:.1f}; "
        f"± is the standard deviation over {report.seeds} seeds (draws of labels, initialisations); "
        f"{report.test_samples:,} test samples, which alone leave an uncertainty of about {sampling:.1f}"
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
    """Accuracy against number of labels, a line a classifier and representation, with bars of one std; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, style in STYLES.items():
        for representation, feature in _rows(report, method):
            points = sorted(
                (result.labels, 100 * result.mean, 100 * (result.std or 0.0))
                for result in report.results
                if (result.representation, result.feature, result.method) == (representation, feature, method)
            )
            budgets, means, stds = zip(*points, strict=True)
            name = f"{_representation_name(representation, method)}, {METHODS[method]}, {feature}"
            axes.errorbar(
                budgets, means, stds, label=name, color=COLOURS[representation], linestyle=style,
                marker=MARKERS.get(feature, "D"), markersize=5, capsize=3, linewidth=1.6,
                markerfacecolor="white" if feature == "cls" else None,
            )  # fmt: skip
    axes.axhline(100 * report.chance, color="#999999", linewidth=1, linestyle=":", label="chance")
    axes.set_xscale("log")
    budgets = sorted({result.labels for result in report.results})
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("labelled samples")
    axes.set_ylabel(f"test accuracy, {report.label or 'label'} (%)")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(file)
