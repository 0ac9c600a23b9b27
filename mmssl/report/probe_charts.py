"""Probes as charts: accuracy against number of labels, pretrained, from scratch and raw input."""

from collections.abc import Sequence

from mmssl.config import command_line
from mmssl.evaluation.probe_report import METHODS
from mmssl.evaluation.probe_results import BEST_LAYER, PRETRAINED, RAW, UNTRAINED, ProbeReport, ProbeResult, last_layer
from mmssl.report import charts, numbers
from mmssl.report.charts import Bar, Bars, Chart, Line
from mmssl.report.gather import Probe, Run
from mmssl.report.numbers import Number, Table

KINDS = {PRETRAINED: ("ink", "o"), UNTRAINED: (charts.RANDOM, "s"), RAW: (charts.RAW, "^")}
DASHES = {"linear": "-", "finetune": "--"}


def deep_feature(report: ProbeReport, representation: str) -> str | None:
    """The feature that stands for a representation: the mean over the tokens after its last block, or the like."""
    names = [
        result.feature
        for result in report.results
        if (result.representation, result.method, result.labels) == (representation, "linear", report.train_samples)
        and not result.feature.startswith("layer ")
        and result.feature != BEST_LAYER
    ]
    return last_layer(names) or (names[0] if names else None)


def label_name(probe: Probe) -> str:
    """What was told apart."""
    return probe.report.label or "the label"


def probe_bars(runs: Sequence[Run]) -> list[Bars]:
    """A label: accuracy from all labels, of every run that was probed on it, beside what needs no pretraining."""
    found: dict[str, dict[str, list[Bar]]] = {}
    commands: dict[str, list[str]] = {}
    for run in runs:
        for probe in run.probes:
            found.setdefault(label_name(probe), {})[run.name] = _bars_of(run, probe)
            commands.setdefault(label_name(probe), []).append(_command(run, probe))
    return [
        Bars(
            f"probe-{label}", f"Telling {label} apart, with all labels",
            "",
            groups, commands[label],
        )
        for label, groups in found.items()
    ]  # fmt: skip


def _command(run: Run, probe: Probe) -> str:
    """What measured it; results of earlier versions do not say on which data."""
    report = probe.report
    return report.command or command_line("mmssl", "probe", run.folder, data="DATA", label=report.label)


def _bars_of(run: Run, probe: Probe) -> list[Bar]:
    report, bars = probe.report, []
    names = {PRETRAINED: "pretrained", UNTRAINED: "random weights", RAW: report.raw}
    colours = {PRETRAINED: run.colour, UNTRAINED: charts.RANDOM, RAW: charts.RAW}
    for kind, name in names.items():
        feature = deep_feature(report, kind)
        if feature is not None:
            result = report.find(kind, feature, "linear")
            bars.append(Bar(name, accuracy(probe, result), colours[kind], pale=kind != PRETRAINED))
    chance = numbers.percent(report.chance, f"{probe.file}: chance")
    return [*bars, Bar("guessing", chance, charts.RAW, pale=True)]


def accuracy(probe: Probe, result: ProbeResult) -> Number:
    """Mean over seeds, and the standard deviation where something was drawn."""
    key = f"{result.representation}, {result.feature}, {result.method}, {result.labels} labels"
    return numbers.percent(result.mean, f"{probe.file}: {key}", result.std)


def budget_chart(run: Run, probe: Probe) -> Chart | None:
    """Accuracy against the number of labels, on a logarithmic axis; None where only one number was tried."""
    report, lines, rows = probe.report, [], []
    budgets = sorted({result.labels for result in report.results})
    if len(budgets) < 2:
        return None
    for method, dash in DASHES.items():
        for kind, (colour, marker) in KINDS.items():
            results = _by_budget(report, kind, method)
            if not results:
                continue
            name = _name(report, kind, method)
            means = [accuracy(probe, result) for result in results]
            spreads = [result.std or 0.0 for result in results]
            line = Line(
                name, run.colour if kind == PRETRAINED else colour, [result.labels for result in results], means,
                [mean.value - spread for mean, spread in zip(means, spreads, strict=True)],
                [mean.value + spread for mean, spread in zip(means, spreads, strict=True)], dash, marker,
            )  # fmt: skip
            lines.append(line)
            at = dict(zip([result.labels for result in results], means, strict=True))
            rows.append([name, *(at.get(budget, "") for budget in budgets)])
    label = label_name(probe)
    return Chart(
        f"labels-{run.name}-{label}", f"{run.name}: {label} from few labels",
        "", "labelled samples", "test accuracy in %", lines,
        Table(["", *(f"{budget:,} labels" for budget in budgets)], rows), [_command(run, probe)], log_x=True,
        ticks={f"{budget:,}": float(budget) for budget in budgets}, floor=(report.chance, "chance"), scale=100.0,
    )  # fmt: skip


def _by_budget(report: ProbeReport, kind: str, method: str) -> list[ProbeResult]:
    feature = deep_feature(report, kind)
    chosen = [result for result in report.results if (result.representation, result.method) == (kind, method)]
    if method == "linear":
        chosen = [result for result in chosen if result.feature == feature]
    return sorted(chosen, key=lambda result: result.labels)


def _name(report: ProbeReport, kind: str, method: str) -> str:
    if method == "finetune":
        return "fine-tuned, pretrained" if kind == PRETRAINED else "trained from scratch"
    kinds = {PRETRAINED: "pretrained", UNTRAINED: "random weights", RAW: report.raw}
    return f"{METHODS[method]}, {kinds[kind]}"
