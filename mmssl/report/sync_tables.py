"""What ``mmssl sync --evaluate`` and ``mmssl retrieve`` found of a run, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmssl.config import command_line, read_json
from mmssl.errors import UserError
from mmssl.report import numbers
from mmssl.report.gather import Run
from mmssl.report.numbers import Table


@dataclass(frozen=True)
class Titled:
    """A table with words around it."""

    title: str
    caption: str
    table: Table
    command: str


def sync_tables(runs: Sequence[Run]) -> tuple[list[Titled], list[str]]:
    """Tables, and sentences on files that cannot be read."""
    tables, notes = [], []
    for run in runs:
        for pattern, read in (("evaluation*.json", _offsets), ("retrieval.json", _retrieval)):
            for file in sorted(run.folder.rglob(pattern)):
                where = f"{run.name}/{file.relative_to(run.folder).as_posix()}"
                try:
                    tables.append(read(run, read_json(file), where))
                except (UserError, KeyError, TypeError, AttributeError):
                    notes.append(f"{where} is not what this version of mmssl writes, and is left out.")
    return tables, notes


def _offsets(run: Run, data: dict[str, Any], where: str) -> Titled:
    rows = data["rows"]

    def line(name: str, key: str) -> list[Any]:
        return [name, *(numbers.percent(row[key], f"{where}: {key}, {row['context']} frames") for row in rows)]

    return Titled(
        f"{run.name}: the offset, right to within a frame",
        f"Known offsets were put into {data['clips']:,} clips of {data['data']} and measured, by frames of context.",
        Table(
            ["", *(f"{row['context']} frames" for row in rows)], [line("this run", "right"), line("chance", "chance")]
        ),
        data.get("command") or command_line("mmssl", "sync", run.folder, evaluate="DATA"),
    )


def _retrieval(run: Run, data: dict[str, Any], where: str) -> Titled:
    ranks = list(data["to_sound"]["recall"])
    parts = (("sound of a video", "to_sound", "recall"), ("video of a sound", "to_video", "recall"),
             ("chance", "to_sound", "chance"))  # fmt: skip
    rows = [
        [name, *(numbers.percent(data[way][key][rank], f"{where}: {way}, {key}, {rank}") for rank in ranks)]
        for name, way, key in parts
    ]
    return Titled(
        f"{run.name}: finding the right partner",
        f"Whose sound is it? The share of clips of {data['data']} whose partner is among the first so many of "
        f"{data['clips']:,}.",
        Table(["", *(f"first {rank}" for rank in ranks)], rows),
        data.get("command") or command_line("mmssl", "retrieve", run.folder, data="DATA"),
    )
