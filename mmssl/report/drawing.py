"""Charts as SVG in the page: text stays text, colours are those of the page's scheme, light or dark."""

import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from mmssl.report.charts import Chart, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 8
"""Of runs; then they begin again."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
WIDE, NARROW = (860, 360), (352, 300)
"""Width and height in CSS pixels: on a screen, and on a phone or in a column."""
NAMED = {"ink": "#0a0b0c", "faint": "#b0b1b2", "random": "#d1730f", "raw": "#6b6b6b"}
"""Stand-ins that matplotlib draws with; the page has variables of these names."""


def variable(colour: int | str) -> str:
    """Name of the CSS variable of a run's colour, or of one of the named ones."""
    return f"--run{colour % COLOURS}" if isinstance(colour, int) else f"--{colour}"


def _stand_in(colour: int | str) -> str:
    return f"#0c{colour % COLOURS:02x}00" if isinstance(colour, int) else NAMED[colour]


_VARIABLES = {_stand_in(colour): f"var({variable(colour)})" for colour in (*range(COLOURS), *NAMED)}


def draw(chart: Chart, size: tuple[int, int] = WIDE, suffix: str = "") -> Markup:
    """An ``<svg>`` element; ``suffix`` keeps its ids apart from those of the same chart at another size."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink, key = NAMED["ink"], re.sub(r"\W", "-", chart.key) + suffix
    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": key, "font.size": 12.5, "text.color": ink, "axes.labelcolor": ink,
        "axes.edgecolor": NAMED["faint"], "xtick.color": NAMED["faint"], "ytick.color": NAMED["faint"],
        "xtick.labelcolor": ink, "ytick.labelcolor": ink, "text.parse_math": False, "axes.unicode_minus": True,
    }  # fmt: skip
    stream = io.StringIO()
    with rc_context(settings):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for line in chart.lines:
            _draw_line(axes, line, chart.scale)
        _dress(axes, chart, narrow=size[0] < 500)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), key, chart.alt)


def _draw_line(axes: "Axes", line: Line, scale: float) -> None:
    colour, filled = _stand_in(line.colour), line.dash == "-"
    marker = line.marker and (MARKERS[line.colour % COLOURS] if isinstance(line.colour, int) else line.marker)
    values = [scale * number.value for number in line.y]
    if len(line.low) and list(line.low) != list(line.high):
        low, high = ([scale * edge for edge in edges] for edges in (line.low, line.high))
        axes.fill_between(line.x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        line.x, values, color=colour, linestyle=line.dash, linewidth=2, marker=marker or None, markersize=5.5,
        markerfacecolor=colour if filled else "none",
    )  # fmt: skip


def _dress(axes: "Axes", chart: Chart, *, narrow: bool) -> None:
    """Axes, ticks, grid, and the line to compare with."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    if chart.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if chart.ticks:
        kept = _spread(chart.ticks, log=chart.log_x, most=5 if narrow else 11)
        axes.set_xticks(list(kept.values()), list(kept))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(chart.x_label)
    axes.set_title(chart.y_label, loc="left", fontsize=12.5, pad=10)
    axes.grid(axis="y", color=NAMED["faint"], linewidth=0.6, alpha=0.5)
    axes.tick_params(length=0, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.03)
    if chart.floor is not None:
        height, name = chart.floor
        axes.axhline(chart.scale * height, color=NAMED["ink"], linewidth=1, linestyle=(0, (2, 3)))
        axes.text(
            1, chart.scale * height, name, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=11
        )


def _spread(ticks: "Any", *, log: bool, most: int) -> dict[str, float]:
    """Ticks that do not run into each other: those nearer than a ``most``-th of the axis to the one before go."""
    import math

    def place(value: float) -> float:
        return math.log(value) if log else value

    ordered = sorted(ticks.items(), key=lambda tick: tick[1])
    reach = place(ordered[-1][1]) - place(ordered[0][1]) or 1.0
    kept: dict[str, float] = {}
    for label, value in ordered:
        if not kept or (place(value) - place(list(kept.values())[-1])) / reach > 0.9 / most:
            kept[label] = value
    return kept


def _inline(svg: str, key: str, alt: str) -> Markup:
    """Without prolog, metadata and addresses; ids of its own; the page's colours and font; a title to read aloud."""
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', head)
    body = re.sub(r'\sid="([^"]*)"', rf' id="{key}-\1"', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*(; )?", "", body)
    body = re.sub(r"#0[0-9a-f]{5}|#[0-9a-f]{6}", lambda match: _VARIABLES.get(match[0], match[0]), body)
    body = re.sub(r"\n\s*", "\n", body)
    title = f'<title id="{key}-title">{escape(alt)}</title>'
    assert box is not None, "matplotlib writes a viewBox"
    return Markup(f'<svg class="chart" viewBox="{box[1]}" role="img" aria-labelledby="{key}-title">{title}{body}')
