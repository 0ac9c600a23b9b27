"""A run on texts, and texts, brought together for looking and measuring."""

from itertools import islice
from pathlib import Path
from typing import Any

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.evaluation.bag_of_words import BagOfWords
from mmssl.evaluation.features import LabelledSet
from mmssl.evaluation.finetune import FinetuneConfig
from mmssl.evaluation.probe_results import ProbeReport
from mmssl.evaluation.probes import probe
from mmssl.evaluation.reveal_text import print_texts, reveal_documents, write_texts
from mmssl.predictors.base import Predictor
from mmssl.predictors.masked_language_model import MaskedLanguageModel

LONGEST = 128
"""Tokens after which a labelled text is cut: sentences, questions and news items are shorter, and a probe on two cores
is to take minutes."""

FINETUNING = FinetuneConfig(steps=150, batch_size=32, learning_rate=1e-3, layer_decay=1.0)
"""Batches as in BERT (Devlin et al. 2019, appendix A.3); 48 epochs of 100 labels and 5 of 1,000. Rate and decay were
chosen with a pretrained ``nano`` on held-out training questions of TREC: 71 % at 1,000 labels, against 69 % at half the
rate and 64 % with a decay of 0.75 as well, which leaves the words of a small encoder almost as they were."""


def reveal_run(
    run: Path, predictor: MaskedLanguageModel, data: str | None, out: Path | None, count: int, first: int
) -> Path:  # fmt: skip
    """Show ``count`` texts from ``first`` on, held out by ``data`` or by the run, each as far as the model reads.

    Prints them, and writes ``out`` as .txt and .html; returns the page.
    """
    from mmssl.data.text import open_texts
    from mmssl.data.text.tokenizer import TextTokenizer

    if data is None:
        saved = read_json(run / "config.json")["config"]
        source = open_texts(
            [saved["data"], *saved["more_data"]], split="val", documents=saved["documents"],
            text_column=saved["text_column"],
        )  # fmt: skip
    else:
        source = open_texts(data)
        held_out = next((name for name in ("val", "test") if name in source.splits), None)
        if not source.held_out and held_out:
            source = open_texts(data, split=held_out)
    chosen = list(islice(source, first, first + count))
    if not chosen:
        raise UserError(f"--first {first} is beyond the {len(source)} texts of {source.name}")
    shown = reveal_documents(predictor, TextTokenizer.load(run / "model"), chosen)
    caption = f"{source.name}: 15 % of the tokens hidden"
    print_texts(shown, caption)
    return write_texts(shown, caption, out or run / "reveal" / "reveal.html")


def probe_labelled(
    predictor: Predictor,
    run: Path,
    data: str,
    label: str | None,
    **settings: Any,
) -> ProbeReport:
    """Probe a language model on labelled texts, beside an untrained one and a bag of words.

    ``settings`` are those of :func:`mmssl.evaluation.probes.probe`.

    Raises UserError for whatever :func:`mmssl.data.text.labelled.open_labelled_texts` refuses.
    """
    from mmssl.data.text.labelled import open_labelled_texts
    from mmssl.data.text.tokenized import TokenizedTexts
    from mmssl.data.text.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.load(run / "model" if (run / "model").is_dir() else run)
    found = open_labelled_texts(data, label=label)
    longest = min(LONGEST, predictor.config.max_length)
    parts, in_order, cut = [], [], 0
    for part in (found.train, found.test):
        texts = TokenizedTexts(part.texts, tokenizer, max_length=longest)
        parts.append(LabelledSet(texts.batches, part.targets, found.names, texts.padding, same=tuple(part.texts)))
        in_order.append([part.texts[number] for number in texts.order.tolist()])
        cut += int((texts.lengths == longest).sum())
    notes = [note[0].upper() + note[1:] + "." for note in found.notes]
    notes.append(f"{BagOfWords.name}: words and their weights come from the labelled texts of each draw alone.")
    if cut:
        notes.append(f"Encoders read the first {longest} tokens of a text ({cut:,} texts are as long or longer).")
    return probe(
        predictor,
        *parts,
        raw=BagOfWords(*in_order),
        label=found.label,
        finetune_config=FINETUNING,
        notes=notes,
        **settings,
    )
