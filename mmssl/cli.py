"""``mmssl ...``: everything that reads a run or looks at data. Recipes write runs; this reads them."""

from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from mmssl.errors import one_sentence_errors
from mmssl.terminal import tell

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
        tell(said)
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

    tell(reveal_run(run, data, out, count, first))


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


def restore(
    run: Positional[Path],
    photos: Positional[tuple[Path, ...]] = (),
    *,
    out: Path,
    mask: Path | None = None,
    scale: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    format: Literal["png", "jpeg"] = "png",
    quality: int = 95,
    overwrite: bool = False,
) -> None:
    """Colour, complete or enlarge photos of any size, or undo their blur or noise, with what a run has learned.

    Writes the result and a picture of before and after beside it. Colour profile, EXIF and transparency stay; the
    result is upright. Exit code 1 where one of the photos could not be restored.

    Args:
        run: Run folder of recipes/image_colorization.py, image_inpainting.py or image_super_resolution.py.
        photos: Files, and folders of files.
        out: Folder to write to; made if missing.
        mask: For inpainting, a picture of the photo's size, white where the hole is; by default the hole is what is
            transparent.
        scale: Refuse where the run enlarges by another factor.
        tile: Side of the square that the network sees at once, in pixels; by default as it was trained. For
            colorization what the shorter side is shrunk to.
        overlap: Of neighbouring tiles in pixels; by default a quarter of a tile, of small ones half.
        format: Of the results. JPEG changes every pixel a little and has no transparency.
        quality: Of JPEG, 1 to 100.
        overwrite: Replace what is there under the names of the results. The photos themselves never are.
    """
    from mmssl.evaluation.restore_files import Writing, open_restorer, restore_files

    to = Writing(out, format, quality, overwrite)
    restorer = open_restorer(run, scale=scale, tile=tile, overlap=overlap, masked=mask is not None)
    if restore_files(restorer, photos, to, mask):
        raise SystemExit(1)


def probe(
    run: Positional[Path],
    *,
    data: str,
    label: tuple[str, ...] = (),
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
        label: Column of labels.csv, of manifest.jsonl, or of the table of texts, or several of them. Of recordings also
            one with lists of [label, start, end] in seconds: stretches, such as words with their times.
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
    from mmssl.errors import UserError
    from mmssl.evaluation.runs import probe_run, transcribe_run

    out = out or run / "probe"
    voices = {"held_out_speakers": held_out_speakers, "speaker_seed": speaker_seed or None}
    voices = {name: value for name, value in voices.items() if value is not None}
    if transcribe:
        if len(label) > 1:
            raise UserError(f"--transcribe writes one column, --label names {len(label)}: give one")
        transcribe_run(run, data, label[0] if label else None, out, voices=voices, unit=transcribe, seeds=seeds)
        return
    settings = {"seeds": seeds, "finetune_labels": finetune_labels, "by_layer": by_layer}
    probe_run(run, data, label or (None,), out, voices=voices, **settings)


def export(run: Positional[Path], *, to: Literal["timm", "transformers"], out: Path) -> None:
    """Write the weights in the format of another library, load them there, and compare the results.

    Args:
        run: Run folder.
        to: The library; transformers for language models and for wav2vec 2.0.
        out: Folder to write; must be empty or missing.
    """
    from mmssl.interchange import export as write

    write(run, to, out)


def sync(
    run: Positional[Path],
    videos: Positional[tuple[Path, ...]] = (),
    *,
    search_ms: float | None = None,
    tolerance_ms: tuple[float, float] = (45.0, 125.0),
    least_confidence: float = 0.5,
    json: bool = False,
    out: Path | None = None,
    fix: Path | None = None,
    overwrite: bool = False,
    evaluate: str | None = None,
    calibrate: str | None = None,
    split: str | None = None,
) -> None:
    """Tell whether the sound of videos lags or leads their picture, by how much, how sure that is; and put it right.

    Offsets are positive where the sound leads (ITU-R BT.1359). Exit codes: 0 every video is in sync (with --fix: is
    now), 1 one is out of sync, 3 one is undetermined, 4 one could not be read; the gravest of several is 4, then 1,
    then 3. 2 is a mistake in the command, 130 an interruption.

    Args:
        run: Run folder of recipes/av_sync.py.
        videos: Files, and folders of files.
        search_ms: How far to search on either side; by default 15 frames, 600 ms at 25 frames a second.
        tolerance_ms: Sound may lead and lag by so much and is called in sync; by default what viewers don't notice.
        least_confidence: An answer whose probability is lower is not given.
        json: Print JSON and nothing else to the standard output.
        out: Folder for sync.json and a figure a video; by default RUN/sync.
        fix: Write repaired copies, the sound moved and the picture untouched: a file for one video, else a folder.
        overwrite: Replace files where --fix writes. The videos themselves are never replaced.
        evaluate: Instead of measuring videos, inject known offsets into the clips of this data (or cache folder).
        calibrate: Instead, fit the confidence to clips of this data, which must be in sync and not trained on.
        split: Of --evaluate and --calibrate; by default the held-out one.
    """
    from mmssl.errors import UserError
    from mmssl.evaluation.offset.question import Question
    from mmssl.evaluation.sync_files import find_videos, sync_files
    from mmssl.evaluation.sync_runs import calibrate_run, evaluate_run, open_synchroniser

    if sum(map(bool, (videos, evaluate, calibrate))) != 1:
        raise UserError("give videos, or --evaluate DATA, or --calibrate DATA: one of the three")
    out = out or run / "sync"
    if evaluate:
        evaluate_run(run, evaluate, split, out)
        return
    if calibrate:
        calibrate_run(run, calibrate, split)
        return
    question = Question(least_confidence=least_confidence, lead_ms=tolerance_ms[0], lag_ms=tolerance_ms[1])
    paths = find_videos(videos)
    synchroniser = open_synchroniser(run, question, search_ms)
    raise SystemExit(sync_files(synchroniser, paths, out, json=json, fix=fix, overwrite=overwrite))


def retrieve(
    run: Positional[Path], *, data: str, split: str | None = None, count: int = 1000, out: Path | None = None
) -> None:
    """Find the sound of each video among those of all others, and the other way round: R@1, 5, 10, and chance.

    Args:
        run: Run folder of recipes/av_sync.py.
        data: Videos, or a cache folder of clips.
        split: By default the held-out one.
        count: At most so many clips, evenly spaced: more are harder.
        out: Folder for retrieval.json; by default RUN/retrieval.
    """
    from mmssl.evaluation.sync_runs import retrieve_run

    retrieve_run(run, data, split, count, out or run / "retrieval")


def localize(run: Positional[Path], video: Positional[Path], *, out: Path, other: Path | None = None) -> None:
    """Show where in the picture the sound comes from: a video and a picture of maps, with controls beside them.

    Args:
        run: Run folder of recipes/av_sync.py.
        video: The file.
        out: Folder for NAME.localized.mp4 and NAME.localized.png.
        other: A video whose sound is a control; by default a held-out one of the run's own data.
    """
    from mmssl.evaluation.sync_runs import localize_run

    localize_run(run, video, out, other)


def compare(
    runs: Positional[tuple[Path, ...]],
    *,
    sweep: tuple[Path, ...] = (),
    out: Path | None = None,
    title: str | None = None,
) -> None:
    """Write one page about runs: what they hid and predicted, skill on one axis, probes side by side. HTML, no network.

    What is missing, not finished or failed is said on the page, and the rest is shown.

    Args:
        runs: Run folders, of any recipes.
        sweep: Folders that recipes/sweep.py wrote: skill against a flag, such as the mask fraction.
        out: File to write; by default report.html beside the first run.
        title: Of the page; by default chosen from the modalities.
    """
    from mmssl.errors import UserError
    from mmssl.report import write_report

    if not runs and not sweep:
        raise UserError("give at least one run folder, or a sweep by --sweep")
    first = (runs or sweep)[0]
    tell(write_report(runs, out or first.parent / "report.html", sweeps=sweep, title=title))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        tyro.extras.subcommand_cli_from_dict(
            {
                "inspect": inspect,
                "doctor": doctor,
                "reveal": reveal,
                "compare": compare,
                "fill": fill,
                "restore": restore,
                "probe": probe,
                "export": export,
                "sync": sync,
                "retrieve": retrieve,
                "localize": localize,
            },
            args=arguments,
            description="Look at data, and read what recipes wrote.",
        )


if __name__ == "__main__":
    main()
