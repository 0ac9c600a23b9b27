"""``mmssl ...``: everything that reads a run or looks at data. Recipes write runs; this reads them."""

from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from mmssl.errors import one_sentence_errors

# Each command imports what it needs when it runs, so that `mmssl --help` answers at once.


def inspect(
    data: Positional[str],
    *,
    kind: Literal["auto", "images", "text", "audio", "video"] = "auto",
    split: str | None = None,
    channels: int = 3,
    tokenizer: Path | None = None,
    documents: Literal["auto", "file", "line", "block"] = "auto",
    text_column: str = "text",
) -> None:
    """Tell what is in a folder, file or tar file of pictures, texts, recordings or videos: number, sizes, what is odd.

    Args:
        data: Folder, file, tar file or Hugging Face data set; of pictures, recordings and videos also a list (.txt,
            .csv, .jsonl).
        kind: What to look at; auto looks at which files are there and says so. Of videos, audio looks at the
            sound only.
        split: Look at one split only.
        channels: Channels to read pictures with.
        tokenizer: Directory of the tokenizer to count tokens with; by default one is trained on the texts.
        documents: How running text is cut: a file, line or blank-line block a document.
        text_column: Column or field that holds the text in tables.
    """
    if kind == "auto":
        from mmssl.data.kind import kind_of

        kind, said = kind_of(data)
        print(said)
    if kind == "text":
        from mmssl.data.text.inspect import inspect_texts, print_text_report

        print_text_report(
            inspect_texts(data, split=split, tokenizer=tokenizer, documents=documents, text_column=text_column)
        )
        return
    if kind == "audio":
        from mmssl.data.audio.inspect import inspect_audio, print_audio_report

        print_audio_report(inspect_audio(data, split=split))
        return
    if kind == "video":
        from mmssl.data.video.inspect import inspect_video, print_video_report

        print_video_report(inspect_video(data, split=split))
        return
    from mmssl.data.images.inspect import inspect_images, print_report

    print_report(inspect_images(data, split=split, channels=channels))


def doctor(run: Positional[Path]) -> None:
    """Tell what is wrong with a run, since when, and one thing to change; exit code 1 where something is.

    Args:
        run: Run folder; training may still be going on.
    """
    from mmssl.training.doctor import examine, print_examination

    examination = examine(run)
    print_examination(examination)
    if examination.findings:
        raise SystemExit(1)


def reveal(
    run: Positional[Path], *, data: str | None = None, out: Path | None = None, count: int = 8, first: int = 0
) -> None:
    """Show what was hidden, what was predicted and what was true: a picture, texts with guesses, a page with sound.

    Args:
        run: Run folder.
        data: Pictures, texts or recordings to use; by default the run's own held-out ones.
        out: File to write, .png for pictures, .html for texts and recordings; by default in RUN/reveal.
        count: Number of pictures, texts or recordings.
        first: Start at this one.
    """
    from mmssl.evaluation.runs import reveal_run

    print(reveal_run(run, data, out, count, first))


def fill(run: Positional[Path], text: Positional[str]) -> None:
    """Guess the missing words of a sentence, such as "the [MASK] sat on the mat".

    Args:
        run: Run folder of a language model.
        text: A text with [MASK] where a token is missing.
    """
    from mmssl.data.text.tokenizer import TextTokenizer
    from mmssl.errors import UserError
    from mmssl.evaluation.reveal_text import fill_text, print_guesses
    from mmssl.predictors import load_predictor
    from mmssl.predictors.masked_language_model import MaskedLanguageModel

    predictor = load_predictor(run)
    if not isinstance(predictor, MaskedLanguageModel):
        raise UserError(f"{run} is a {predictor.name}: only language models fill in words")
    print_guesses(text, fill_text(predictor, TextTokenizer.load(run / "model"), text))


def probe(
    run: Positional[Path],
    *,
    data: str,
    label: str | None = None,
    seeds: int = 3,
    finetune_labels: tuple[int, ...] = (100, 1000),
    by_layer: bool = True,
    transcribe: Literal["words", "characters", "auto"] | None = None,
    held_out_speakers: float | None = None,
    speaker_seed: int = 0,
    out: Path | None = None,
) -> None:
    """Measure the frozen representation on labels: linear probe, kNN, few labels, beside raw input and random weights.

    Raw input is pixels for pictures, a bag of words (TF-IDF) for texts, and log-mel statistics for recordings.

    Args:
        run: Run folder.
        data: Labelled images: class folders or a labels.csv, with train and val (or test) splits. Labelled texts: a
            .tsv, .csv or .jsonl file with a column text, or class folders of .txt files. Labelled recordings: class
            folders, a labels.csv or a manifest.jsonl; where a column speaker is, the test part has other speakers.
        label: Column of labels.csv, of manifest.jsonl, or of the table of texts. Of recordings also one with lists of
            [label, start, end] in seconds: stretches, such as words with their times.
        seeds: Repetitions of everything that is drawn at random.
        finetune_labels: Numbers of labels for accuracy against labels; nothing after the flag switches it off.
        by_layer: Also a linear probe after each layer of the encoder, and of the best one.
        transcribe: Recordings: instead train a CTC head to write the column text (or --label); auto writes words where
            there are at most 100 different ones.
        held_out_speakers: Recordings: how many speakers, or which share of them, only the test part has; 0 divides
            without regard to speakers. By default a quarter, where the splits share speakers.
        speaker_seed: Recordings: another choice of these speakers.
        out: Folder for probe.json (or ctc.json) and the figure; by default RUN/probe.
    """
    from mmssl.evaluation.runs import probe_run, transcribe_run

    out = out or run / "probe"
    voices = {"held_out_speakers": held_out_speakers, "speaker_seed": speaker_seed or None}
    voices = {name: value for name, value in voices.items() if value is not None}
    if transcribe:
        transcribe_run(run, data, label, out, voices=voices, unit=transcribe, seeds=seeds)
        return
    settings = {"seeds": seeds, "finetune_labels": finetune_labels, "by_layer": by_layer}
    probe_run(run, data, label, out, voices=voices, **settings)


def export(run: Positional[Path], *, to: Literal["timm", "transformers"], out: Path) -> None:
    """Write the weights in the format of another library, load them there, and compare the results.

    Args:
        run: Run folder.
        to: The library; transformers for language models and for wav2vec 2.0.
        out: Folder to write; must be empty or missing.
    """
    from mmssl.interchange import export as write

    write(run, to, out)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"inspect": inspect, "doctor": doctor, "reveal": reveal, "fill": fill, "probe": probe, "export": export},
            args=arguments,
            description="Look at data, and read what recipes wrote.",
        )


if __name__ == "__main__":
    main()
