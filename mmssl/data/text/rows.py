"""Files of rows: JSON lines, CSV, TSV, parquet, Hugging Face datasets. A row is a document.

The text is in the column ``text`` (or the one named), the split, if any, in ``split``. Rows without text are counted
and left out. TSV has no quoting, CSV has; both begin with the names of their columns.
"""

import csv
import json
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.data.huggingface import load_splits
from mmssl.data.text.decoding import NotTextError, lines, whole_characters
from mmssl.errors import UserError

LONGEST_ROW = 2**24
"""Characters; a longer row cannot be read."""
_SPLIT = "split"


class Row(NamedTuple):
    """One row: its number from 1, its text (None when it has none that can be used) and its split."""

    number: int
    text: str | None
    split: str | None


def read_rows(texts: Iterator[str], form: str, column: str) -> Iterator[Row]:
    """Rows of a .jsonl, .csv or .tsv file.

    Raises:
        NotTextError: when there is no such column, or the file cannot be parsed.
    """
    if form in (".csv", ".tsv"):
        return _read_table(texts, form, column)
    return _read_json(texts, column)


def _read_json(texts: Iterator[str], column: str) -> Iterator[Row]:
    number, too_long, found = 0, False, False
    seen: set[str] = set()
    for line, whole in lines(texts, LONGEST_ROW):
        too_long = too_long or not whole
        if not whole:
            continue
        number += 1
        if not too_long and not line.strip():
            continue
        row = None if too_long else _parse(line)
        too_long = False
        found = found or (isinstance(row, dict) and column in row)
        if isinstance(row, dict) and not found:
            seen.update(row)
        yield _row(number, row if isinstance(row, dict) else {}, column)
    if number and not found:
        what = f"no field '{column}' (fields: {', '.join(sorted(seen)[:10])})" if seen else "no JSON object a line"
        raise NotTextError("no text column", f"it has {what}: name the field that holds the text, or repair the file")


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_table(texts: Iterator[str], form: str, column: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
    rows = (line + "\n" for line, _ in lines(texts, LONGEST_ROW))
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if form == ".tsv" else {}
    try:
        reader = csv.DictReader(rows, **how)
        names = reader.fieldnames or []
        if column not in names:
            shown = ", ".join(str(name)[:40] for name in names[:10])
            raise NotTextError("no text column", f"it has no column '{column}' (columns: {shown})")
        for number, row in enumerate(reader, 1):
            yield _row(number, row, column)
    except csv.Error as error:
        raise NotTextError("broken", f"cannot be read as {form[1:].upper()} ({error})") from None


def _row(number: int, row: dict[str, Any], column: str) -> Row:
    text, split = row.get(column), row.get(_SPLIT)
    usable = whole_characters(text.replace("\0", "")).strip() if isinstance(text, str) else ""
    return Row(number, usable or None, split if isinstance(split, str) else None)


def read_parquet(stream: BufferedIOBase, column: str) -> Iterator[Row]:
    """Rows of a parquet file, a thousand at a time.

    Raises:
        NotTextError: when the file cannot be read, or pyarrow is not there to read it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotTextError("unsupported", "parquet needs pyarrow: pip install 'mmssl[datasets]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        names = file.schema_arrow.names
        if column not in names:
            raise NotTextError("no text column", f"it has no column '{column}' (columns: {', '.join(names[:10])})")
        wanted = [column, *((_SPLIT,) if _SPLIT in names and column != _SPLIT else ())]
        number = 0
        for batch in file.iter_batches(1000, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield _row(number, row, column)
    except NotTextError:
        raise
    except Exception as error:  # Arrow raises nearly any type on damaged input
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotTextError("broken", f"cannot be read as parquet ({reason})") from None


def open_dataset(path: Path, column: str) -> dict[str, Any]:
    """The splits of a dataset written by ``save_to_disk``; "" for one without splits.

    Raises:
        UserError: when the package is missing, the dataset is damaged, or it has no such column.
    """
    splits = load_splits(path)
    for part in splits.values():
        if column not in part.column_names:
            have = ", ".join(part.column_names)
            raise UserError(f"{path} has no column '{column}' (it has {have}): name the one that holds the text")
    return splits


def dataset_rows(splits: dict[str, Any], column: str) -> Iterator[Row]:
    """All rows of all splits, numbered through."""
    number = 0
    for split, part in splits.items():
        wanted = part.select_columns([name for name in dict.fromkeys((column, _SPLIT)) if name in part.column_names])
        for rows in wanted.iter(1000):
            for values in zip(*(rows[name] for name in rows), strict=True):
                number += 1
                row = _row(number, dict(zip(rows, values, strict=True)), column)
                yield row._replace(split=split or row.split)
