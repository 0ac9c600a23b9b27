"""``mmssl sync RUN VIDEO...``: files to answers, what is said of them, and repaired copies."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl.data.limits import MediaError
from mmssl.data.parts import media_below
from mmssl.data.video.source import VIDEOS
from mmssl.errors import UserError
from mmssl.evaluation.offset.measure import Measurement, Synchroniser
from mmssl.evaluation.offset.question import in_words
from mmssl.evaluation.offset.remux import check_target, shift_sound
from mmssl.evaluation.offset.report import as_json, draw, exit_code, print_table, status
from mmssl.terminal import tell

FEWEST_IN_TABLE = 2
SMALLEST_MOVE_MS = 20.0
"""Sound is moved by half a frame or more: less is within the error of a measurement."""


def find_videos(given: Sequence[Path]) -> list[Path]:
    """Files as given, and the videos in folders, at any depth. Raises UserError where there is nothing."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found.extend(media_below(path, VIDEOS))
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist: check the path")
    return list(dict.fromkeys(found))


class Outputs:
    """Where figures and repaired videos go: names stay apart where two files are called the same."""

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self.folder = folder
        self._names: dict[Path, str] = {}
        taken: set[str] = set()
        for path in paths:
            name, number = path.name, 1
            while name in taken:
                number += 1
                name = f"{path.stem}-{number}{path.suffix}"
            taken.add(name)
            self._names[path] = name

    def file(self, path: Path, ending: str | None = None) -> Path:
        """In the folder, under the name of ``path``."""
        name = self._names[path]
        return self.folder / (name if ending is None else f"{name}{ending}")


def sync_files(
    synchroniser: Synchroniser,
    paths: Sequence[Path],
    out: Path,
    *,
    json: bool = False,
    fix: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Measure files, say what was found, write figures and sync.json to ``out``; returns the exit code.

    With ``json`` nothing but JSON goes to the standard output. With ``fix``, a file for one video and a folder for
    several, the code is that of the repaired files.
    """
    to = sys.stderr if json else sys.stdout
    targets = _targets(paths, fix, overwrite)
    figures, done, after = Outputs(paths, out), [], []
    if synchroniser.calibration is None:
        advice = "answers have no confidence: mmssl sync RUN --calibrate DATA gives them one"
        tell(f"note: the run has no calibration.json, so {advice}", file=sys.stderr)
    try:
        for path in paths:
            found = synchroniser.measure(path)
            done.append(found)
            tell(f"{found.path}: {found.sentence}", file=to)
            if found.answer and found.answer.warning:
                tell(f"    note: {found.answer.warning}", file=to)
            if found.answer and found.answer.curve is not None:
                figure = draw(found, synchroniser.question, figures.file(found.path, ".png"))
                if len(paths) < FEWEST_IN_TABLE:
                    tell(figure, file=to)
            if found.path in targets:
                after.append(_repair(synchroniser, found, targets[found.path], overwrite, to))
    finally:  # Ctrl-C: what was found so far is kept
        if done:
            _report(synchroniser, done, out, json, len(paths))
    return exit_code(after if fix is not None else done)


def _targets(paths: Sequence[Path], fix: Path | None, overwrite: bool) -> dict[Path, Path]:
    """Where each repaired video goes. Raises UserError before anything is measured where it would destroy something."""
    if fix is None:
        return {}
    if len(paths) == 1 and not fix.is_dir() and fix.suffix:
        targets = {paths[0]: fix}
    else:
        outputs = Outputs(paths, fix)
        targets = {path: outputs.file(path) for path in paths}
    for source, target in targets.items():
        check_target(source, target, overwrite)
    return targets


def _report(synchroniser: Synchroniser, done: list[Measurement], out: Path, json: bool, asked: int) -> None:
    text = as_json(done, synchroniser.question)
    out.mkdir(parents=True, exist_ok=True)
    (out / "sync.json").write_text(text + "\n", encoding="utf-8")
    if json:
        tell(text)
    elif asked >= FEWEST_IN_TABLE:
        print_table(done)
        tell(out / "sync.json")


def _repair(synchroniser: Synchroniser, found: Measurement, target: Path, overwrite: bool, to: Any) -> Measurement:
    """Write a video with its sound moved, measure it again and say so; what needs or allows no move is said too."""
    answer = found.answer
    if answer is None or answer.offset_ms is None:
        tell(f"    not repaired: {status(found)}", file=to)
        return found
    if answer.course != "constant":
        tell("    not repaired: the offset changes over time, and --fix moves all sound by one amount", file=to)
        return found
    if abs(answer.offset_ms) < SMALLEST_MOVE_MS:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.path, target)
        tell(f"    {target}: copied as it is, less than {SMALLEST_MOVE_MS:.0f} ms are not moved", file=to)
        return found
    try:
        notes = shift_sound(found.path, target, answer.offset_ms, overwrite=overwrite)
    except MediaError as error:
        tell(f"    not repaired: {error.reason}", file=to)
        return Measurement(found.path, None, error.reason)
    direction = "later" if answer.offset_ms > 0 else "earlier"
    tell(f"    {target}: the sound was moved {abs(answer.offset_ms):.0f} ms {direction}", file=to)
    for note in notes:
        tell(f"    note: {note}", file=to)
    again = synchroniser.measure(target)
    verdict = again.sentence
    if again.answer and again.answer.offset_ms is not None and again.answer.in_sync:
        verdict = f"repaired: {in_words(again.answer.offset_ms)} now"
    tell(f"    measured again: {verdict}", file=to)
    return again
