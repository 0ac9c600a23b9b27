"""What is in a set of texts: every document is tokenized and counted."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.report import print_files
from mmssl.data.text.cache import batches_of
from mmssl.data.text.cutting import Documents
from mmssl.data.text.documents import open_texts
from mmssl.data.text.source import TextSource
from mmssl.data.text.tokenizer import TextTokenizer, load_tokenizer
from mmssl.data.text.training import train_tokenizer
from mmssl.data.text.words import INSIDE
from mmssl.terminal import plain

TRAINED_VOCABULARY = 8000
# A tokenizer for looking is trained on about so many characters, evenly spaced.
_TRAINED_CHARACTERS = 3_000_000
_SHOWN_TOKENS = 30
_QUANTILES = {"min": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "max": 100}


def inspect_texts(
    data: str | Path | list[str | Path],
    *,
    split: str | None = None,
    tokenizer: str | Path | None = None,
    documents: Documents = "auto",
    text_column: str = "text",
) -> dict[str, Any]:
    """Tokenize every document of ``data`` and describe the set; plain numbers, strings, lists and dicts, fit for JSON.

    Args:
        data, split, documents, text_column: as for :func:`mmssl.data.text.open_texts`.
        tokenizer: a tokenizer's directory; by default a WordPiece vocabulary of 8,000 is trained on up to three
            million characters of the documents.

    Raises:
        UserError: when the data is missing, may not be read or holds no text, or the tokenizer cannot be used.
    """
    source = open_texts(data, split=split, documents=documents, text_column=text_column)
    if tokenizer is None:
        every = max(1, source.characters // _TRAINED_CHARACTERS)
        sample = [text for place, text in enumerate(source) if place % every == 0]
        used = train_tokenizer(sample, "wordpiece", TRAINED_VOCABULARY)
        name = f"WordPiece of {used.vocabulary_size:,} trained on the data"
    else:
        used = load_tokenizer(tokenizer)
        name = f"{tokenizer} ({used.vocabulary_size:,} tokens)"
    lengths, counts, words = _count(source, used)
    total = int(counts.sum())
    unknown = int(counts[used.unk_id]) if used.unk_id is not None else 0
    frequent = np.argsort(-counts, kind="stable")[:_SHOWN_TOKENS]
    return {
        "data": source.name,
        "split": split,
        "documents": len(source),
        "files": len(source.files),
        "characters": source.characters,
        "splits": source.splits,
        "held_out": source.held_out,
        "notes": source.notes,
        "encodings": source.encodings(),
        "tokenizer": name,
        "tokens": total,
        "words": words,
        "unknown": unknown / max(total, 1),
        "never_used": int((counts == 0).sum()) - len(used.special_ids) + int(unknown > 0),
        "length": {name: float(np.percentile(lengths, share)) for name, share in _QUANTILES.items()},
        "frequent": [
            {"token": used.token(int(id)), "share": int(counts[id]) / max(total, 1)} for id in frequent if counts[id]
        ],
        "skipped": [asdict(item) for item in source.skipped],
    }


def _count(source: TextSource, tokenizer: TextTokenizer) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens of every document, occurrences of every token, number of words."""
    from rich.console import Console
    from rich.progress import Progress

    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    lengths: list[int] = []
    words = 0
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        task = bar.add_task("tokenizing", total=len(source))
        for texts in batches_of(source):
            for tokenized in tokenizer.encode(texts):
                counts += np.bincount(tokenized.ids, minlength=len(counts))
                lengths.append(len(tokenized.ids))
                words += int((tokenized.marks > INSIDE).sum())
            bar.advance(task, len(texts))
    return np.array(lengths, np.int64), counts, words


def print_text_report(report: dict[str, Any]) -> None:
    """Show what :func:`inspect_texts` found, on standard output."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, value in _overview(report):
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    numbers = [Column(name, justify="right") for name in _QUANTILES]
    lengths = Table("tokens", *numbers, title="lengths", title_justify="left")
    lengths.add_row("a document", *(f"{value:,.0f}" for value in report["length"].values()))
    console.print(lengths)
    _print_tokens(console, report["frequent"])
    print_files(console, "skipped", report["skipped"])


def _overview(report: dict[str, Any]) -> list[tuple[str, str]]:

    splits = ", ".join(f"{plain(name)} {count:,}" for name, count in report["splits"].items())
    encodings = ", ".join(f"{name} {count:,}" for name, count in report["encodings"].items())
    per_word = report["tokens"] / max(report["words"], 1)
    return [
        ("data", plain(report["data"]) + (f" (split {plain(report['split'])})" if report["split"] else "")),
        ("documents", f"{report['documents']:,} from {report['files']:,} files, {report['characters']:,} characters"),
        ("splits", splits + (" (no validation split: held out by a hash of the text)" if report["held_out"] else "")),
        ("cut", plain("\n".join(report["notes"]))),
        *([("encodings", encodings)] if encodings else []),
        ("tokenizer", plain(report["tokenizer"])),
        ("tokens", f"{report['tokens']:,} in {report['words']:,} words ({per_word:.2f} a word)"),
        ("unknown", f"{report['unknown']:.3%} of tokens; {report['never_used']:,} of the vocabulary never occur"),
    ]


def _print_tokens(console: Any, frequent: list[dict[str, Any]]) -> None:

    shown = "  ".join(f"{plain(repr(row['token'])[1:-1])} {row['share']:.1%}" for row in frequent)
    console.print(f"\n[bold]most frequent tokens[/]\n  {shown}")
