"""Texts with hidden words, what was guessed for them and what stood there: on the terminal, as text and as HTML."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.errors import UserError
from mmssl.terminal import printable

if TYPE_CHECKING:
    from mmssl.data.text.tokenizer import TextTokenizer
    from mmssl.predictors.base import Batch
    from mmssl.predictors.masked_language_model import MaskedLanguageModel

Guesses = tuple[tuple[str, float], ...]
"""Tokens with their probabilities, likeliest first."""


@dataclass(frozen=True)
class Token:
    """One token of a text, as people read it."""

    text: str
    begins_word: bool
    guesses: Guesses = ()
    """What the network guessed; empty where nothing was hidden."""

    @property
    def rank(self) -> int | None:
        """Place of the truth among the guesses, from 1 on; None where it is not among them."""
        names = [name for name, _ in self.guesses]
        return names.index(self.text) + 1 if self.text in names else None


def reveal_texts(predictor: "MaskedLanguageModel", tokenizer: "TextTokenizer", batch: "Batch") -> list[list[Token]]:
    """Hide as validation does, and guess. One list of tokens a text, special ones left out."""
    panels = {name: value.cpu() for name, value in predictor.reveal(batch).items()}
    texts = []
    for row, length in enumerate(batch["length"].tolist()):
        words = batch["word"][row, :length].tolist()
        tokens = []
        for column, word in enumerate(words):
            if word < 0:
                continue
            truth = tokenizer.token(int(panels["original"][row, column]))
            begins = column == 0 or words[column - 1] != word
            guesses: Guesses = ()
            if panels["hidden"][row, column]:
                pairs = zip(
                    panels["guesses"][row, column].tolist(), panels["probability"][row, column].tolist(), strict=True
                )
                guesses = tuple((tokenizer.token(number), share) for number, share in pairs)
            tokens.append(Token(truth, begins, guesses))
        texts.append(tokens)
    return texts


def reveal_documents(
    predictor: "MaskedLanguageModel", tokenizer: "TextTokenizer", documents: Sequence[str]
) -> list[list[Token]]:
    """:func:`reveal_texts` of whole texts in their order, each as far as the model reads."""
    from mmssl.data.text.tokenized import TokenizedTexts
    from mmssl.evaluation.features import to_device

    shown: dict[int, list[Token]] = {}
    for batch in TokenizedTexts(documents, tokenizer, max_length=predictor.config.max_length).batches():
        revealed = reveal_texts(predictor, tokenizer, to_device(batch, predictor.device))
        shown |= zip(batch["id"].tolist(), revealed, strict=True)
    return [shown[number] for number in range(len(documents))]


def fill_text(predictor: "MaskedLanguageModel", tokenizer: "TextTokenizer", text: str) -> list[Guesses]:
    """Five guesses for each [MASK] of a text, which a user types whatever the tokenizer's own mask is called.

    Raises UserError where there is no mask, or the text is longer than the model reads.
    """
    import torch

    mask = tokenizer.token(tokenizer.mask_id)
    ids = tokenizer.encode([text.replace("[MASK]", mask)], special=True)[0].ids.tolist()
    if tokenizer.mask_id not in ids:
        raise UserError('there is nothing to fill in: write [MASK] for the missing word, as in "the [MASK] sat"')
    ends = [end for end in (tokenizer.cls_id, tokenizer.sep_id) if end is not None]
    ids = [*ends[:1], *ids, *ends[1:]]
    if len(ids) > predictor.config.max_length:
        raise UserError(
            f"the text has {len(ids)} tokens, this model reads {predictor.config.max_length}: give a shorter one"
        )
    with torch.no_grad():
        logits = predictor.logits(
            torch.tensor([ids], device=predictor.device), torch.tensor([len(ids)], device=predictor.device)
        )
    logits[..., list(predictor.config.special_ids)] = -torch.inf
    shares, numbers = (
        logits[0, [place for place, number in enumerate(ids) if number == tokenizer.mask_id]].softmax(-1).topk(5)
    )
    return [
        tuple((tokenizer.token(number), share) for number, share in zip(row, chances, strict=True))
        for row, chances in zip(numbers.tolist(), shares.tolist(), strict=True)
    ]


def print_guesses(text: str, guesses: Sequence[Guesses]) -> None:
    """For each mask of a text the guesses with their probabilities, and the text with the likeliest ones."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    for number, row in enumerate(guesses, 1):
        table = Table.grid(padding=(0, 2))
        for name, share in row:
            table.add_row(f"{share:6.1%}", _readable(name))
        text = text.replace("[MASK]", _readable(row[0][0].removeprefix("##")), 1)
        console.print(f"[MASK] {number}" if len(guesses) > 1 else "[MASK]")
        console.print(table)
    console.print(text)


def print_texts(texts: Sequence[Sequence[Token]], caption: str, console: Any = None) -> None:
    """Each text with its hidden words in colour, green where the first guess is right, and the guesses below it."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    console.print(Text(printable(caption), style="bold"))
    for tokens in texts:
        line, rows, number = Text(), [], 0
        for token in tokens:
            if token.begins_word and line:
                line.append(" ")
            if not token.guesses:
                line.append(_plain(token))
                continue
            number += 1
            style = {1: "bold green", None: "bold red"}.get(token.rank, "bold yellow")
            line.append(f"[{number}:{_plain(token)}]", style=style)
            rows.append(_guess_line(number, token))
        console.print()
        console.print(line)
        for row in rows:
            console.print(Text(row), soft_wrap=True)
    console.print()
    console.print(summary(texts))


def summary(texts: Sequence[Sequence[Token]]) -> str:
    """How many of the hidden tokens were guessed."""
    ranks = [token.rank for tokens in texts for token in tokens if token.guesses]
    first, five = sum(rank == 1 for rank in ranks), sum(rank is not None for rank in ranks)
    if not ranks:
        return "nothing was hidden: these texts are too short"
    return (
        f"{len(ranks)} hidden; first guess right {first / len(ranks):.0%}, among the first five {five / len(ranks):.0%}"
    )


def _plain(token: Token) -> str:
    """As part of a text, whose line ends stay."""
    text = token.text.removeprefix("##").strip() or token.text
    return text if text.isspace() else _readable(text)


def _readable(token: str) -> str:
    """A token by itself: without spaces around it, and what cannot be seen or could steer a terminal spelled out."""
    text = token.strip(" ") or "\N{OPEN BOX}"
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _guess_line(number: int, token: Token) -> str:
    verdict = {1: "hit", None: "miss"}.get(token.rank, f"{token.rank}. guess")
    guesses = "  ".join(f"{_readable(name)} {share:.0%}" for name, share in token.guesses)
    return f"  {number:>3} {_readable(token.text):<16} {verdict:<9} {guesses}"


def write_texts(texts: Sequence[Sequence[Token]], caption: str, file: Path) -> Path:
    """Write ``file`` (.txt) and the same as a page beside it (.html). Returns the page."""
    from rich.console import Console

    written = io.StringIO()
    print_texts(texts, caption, Console(file=written, width=100, highlight=False))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".txt").write_text(written.getvalue(), encoding="utf-8", errors="backslashreplace")
    page = file.with_suffix(".html")
    page.write_text(_page(texts, caption), encoding="utf-8", errors="xmlcharrefreplace")
    return page


_STYLE = """
:root { color-scheme: light dark; }
body { font: 1.05rem/1.7 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.15rem; } p.note { font: .9rem/1.5 system-ui, sans-serif; opacity: .75; }
article { border-top: 1px solid #8886; padding: .6rem 0; }
mark { border-radius: .25em; padding: 0 .2em; color: #111; }
mark.hit { background: #a6dba0; } mark.near { background: #fee090; } mark.miss { background: #f4a582; }
mark sup { font: .65em system-ui, sans-serif; }
table { font: .85rem/1.5 system-ui, sans-serif; border-collapse: collapse; margin: .4rem 0; }
td { padding: .1rem .7rem .1rem 0; vertical-align: baseline; } td.n { text-align: right; opacity: .6; }
td small { opacity: .65; } .hit b, b.right { text-decoration: underline; }
"""


def _page(texts: Sequence[Sequence[Token]], caption: str) -> str:
    """One page without anything from elsewhere. Texts of strangers stay text: everything is escaped."""
    escape = html.escape
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(caption)}</title><style>{_STYLE}</style></head><body><h1>{escape(caption)}</h1>",
        f'<p class="note">{escape(summary(texts))}. Green: the first guess is right. Yellow: one of the first five. '
        "Red: missed. The network saw a mask in place of every coloured word.</p>",
    ]
    for tokens in texts:
        parts.append("<article><p>")
        rows, number = [], 0
        for place, token in enumerate(tokens):
            if token.begins_word and place:
                parts.append(" ")
            if not token.guesses:
                parts.append(escape(_plain(token)))
                continue
            number += 1
            kind = {1: "hit", None: "miss"}.get(token.rank, "near")
            parts.append(f'<mark class="{kind}">{escape(_plain(token))}<sup>{number}</sup></mark>')
            guesses = "".join(
                f"<td>{'<b class=right>' if name == token.text else ''}{escape(_readable(name))}"
                f"{'</b>' if name == token.text else ''} <small>{share:.0%}</small></td>"
                for name, share in token.guesses
            )
            rows.append(f'<tr><td class="n">{number}</td><td><i>{escape(_readable(token.text))}</i></td>{guesses}</tr>')
        parts.append(f"</p><table>{''.join(rows)}</table></article>")
    parts.append("</body></html>\n")
    return "".join(parts)
