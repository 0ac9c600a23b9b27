"""What is said on a terminal: names and texts of the user's data may be shown there and must not steer it."""

import sys
from typing import Any


def tell(text: object = "", *, file: Any = None) -> None:
    """``print`` for what this package says: :func:`printable`, and at once. ``file``: standard output if None."""
    print(printable(str(text)), file=file or sys.stdout, flush=True)


def tell_progress(line: str) -> None:
    """A line on work that goes on."""
    tell(f"... {line}")


def printable(text: str) -> str:
    """Text for a terminal: what cannot be seen or could steer it, as in names of strangers' files, is spelled out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def plain(text: str) -> str:
    """Text for a console of rich: printable, and its brackets are no markup."""
    from rich.markup import escape

    return escape(printable(text))
