"""Several encoders under one probe, seed by seed: a table and a figure of what each of them learned.

A column is one kind of classifier at one number of labels, a row what was probed; a cell holds an accuracy for each
seed, or a single one where no seed matters.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmssl.evaluation.probe_report import COLOURS
from mmssl.evaluation.probe_results import BEST_LAYER, PRETRAINED, RAW, UNTRAINED, ProbeReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

COMPARED = ("mean", "flat", BEST_LAYER)
"""Features that stand for an encoder or for the raw input; a predictor of pixels gives its cls token nothing to do."""


class Row(NamedTuple):
    """One thing that was probed."""

    kind: str
    """``pretrained``, ``random init`` or ``raw input``."""
    accuracies: Mapping[str, Sequence[float]]
    """By column."""
    training: Mapping[str, Sequence[float]] = {}
    """What is to be known of how it was trained, such as minutes, one a seed."""


Rows = Mapping[str, Row]
"""Rows by name, in the order in which they are shown."""


def accuracies(report: ProbeReport) -> dict[str, list[float]]:
    """What a probe of one encoder, or of the raw input, found: accuracies by column, in the order of the table."""
    found: dict[tuple[int, int, int], tuple[str, list[float]]] = {}
    for result in report.results:
        if result.feature not in COMPARED:
            continue
        everything, best = result.labels == report.train_samples, result.feature == BEST_LAYER
        what = {"knn": "20-NN", "linear": "linear", "finetune": "fine-tuned"}[result.method]
        with_labels = BEST_LAYER if best else "all" if everything else f"{result.labels:,}"
        order = (["knn", "linear", "finetune"].index(result.method), result.labels, int(best))
        found[order] = f"{what}, {with_labels}", list(result.accuracies)
    return {column: values for _, (column, values) in sorted(found.items())}


def joined(parts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Accuracies of several seeds, one after the other, by column."""
    columns = dict.fromkeys(column for part in parts for column in part)
    return {column: [value for part in parts for value in part.get(column, ())] for column in columns}


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def summary(rows: Rows) -> dict[str, dict[str, dict[str, float | None]]]:
    """Mean and sample standard deviation over seeds of every cell, for JSON."""
    return {
        name: {
            column: {"mean": statistics.fmean(values), "std": spread(values)}
            for column, values in (*row.accuracies.items(), *row.training.items())
        }
        for name, row in rows.items()
    }


def print_comparison(rows: Rows, title: str, notes: Sequence[str], console: "Console | None" = None) -> None:
    """Print a row for each thing probed: accuracies in per cent, mean ± sample standard deviation over seeds."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns, training = _columns(rows)
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("", no_wrap=True)
    for column in [*columns, *training]:
        table.add_column(column, justify="right")
    kind = PRETRAINED
    for name, row in rows.items():
        if row.kind != kind:
            table.add_section()
            kind = row.kind
        cells = [_cell([100 * value for value in row.accuracies.get(column, ())]) for column in columns]
        table.add_row(name, *cells, *(_cell(row.training.get(column, ())) for column in training))
    console = console or Console(width=max(Console().width, 34 + 14 * len(table.columns)))
    console.print(table)
    console.print("\n".join(notes), style="dim")


def _columns(rows: Rows) -> tuple[list[str], list[str]]:
    accuracies, training = zip(*((row.accuracies, row.training) for row in rows.values()), strict=True)
    return list(joined(accuracies)), list(joined(training))


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    about = spread(values)
    return f"{statistics.fmean(values):.1f}" + ("" if about is None else f" ± {about:.1f}")


def draw_comparison(rows: Rows, title: str, chance: float, file: Path) -> None:
    """A panel for each column, a line for each row: every seed a dot, their mean a bar; baselines go through as lines.
    The last panels say how training went. PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, training = _columns(rows)
    panels = len(columns) + len(training)
    figure = Figure(figsize=(2.2 + 1.7 * panels, 1.3 + 0.36 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axes, column in zip(every, columns, strict=False):
        cells = {name: [100 * value for value in row.accuracies.get(column, ())] for name, row in rows.items()}
        _draw_column(axes, column, rows, cells)
        axes.axvline(100 * chance, color="#777777", linewidth=1, linestyle=":")
    for axes, column in zip(every[len(columns) :], training, strict=True):
        _draw_column(axes, column, rows, {name: row.training.get(column, ()) for name, row in rows.items()})
    every[0].set_yticks(range(len(rows)), list(rows))
    every[0].invert_yaxis()
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.supxlabel("test accuracy in % by kind of classifier and labels (dotted: chance), and training", fontsize=9)
    figure.savefig(file)


def _draw_column(axes: "Axes", column: str, rows: Rows, cells: Mapping[str, Sequence[float]]) -> None:
    for place, (name, values) in enumerate(cells.items()):
        if not values:
            continue
        colour, mean = COLOURS[rows[name].kind], statistics.fmean(values)
        if rows[name].kind in (UNTRAINED, RAW):
            axes.axvline(mean, color=colour, linewidth=1, alpha=0.6)
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.7)
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, linewidth=2)
    axes.set_title(column, fontsize=9)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
