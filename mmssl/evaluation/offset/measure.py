"""One video file in, one answer out; long videos in pieces, so that memory stays bounded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmssl.data.limits import MediaError
from mmssl.evaluation.offset.answer import answer
from mmssl.evaluation.offset.calibration import Calibration
from mmssl.evaluation.offset.embedding import RowCollector, embed_clip
from mmssl.evaluation.offset.question import Answer, Question, Reason, undetermined

PIECE_SECONDS = 60.0
"""Read and embedded at a time."""

Reader = Callable[[Path, float | None, float | None], Any]
"""Path, start and seconds to a :class:`mmssl.data.video.Clip`; raises MediaError."""

NO_ANSWER: dict[str, Reason] = {
    "no sound": "no sound track", "no picture": "no picture", "no face": "no picture", "short": "too short",
}  # fmt: skip
"""Kinds of MediaError that are answers: the file can be read, and says nothing about an offset."""


@dataclass(frozen=True)
class Measurement:
    """What was found out about a file: an answer, or why it could not be read."""

    path: Path
    answer: Answer | None
    failure: str | None = None

    @property
    def sentence(self) -> str:
        """For people."""
        return self.answer.sentence if self.answer else f"not read: {self.failure}"


@dataclass(frozen=True)
class Synchroniser:
    """A run that answers questions about files."""

    predictor: Any
    question: Question
    read: Reader
    calibration: Calibration | None = None

    def measure(self, path: Path) -> Measurement:
        """The offset of one file, or why there is none."""
        collector = RowCollector(self.predictor, self.question.reach)
        try:
            cut = self._embed(path, collector)
        except MediaError as error:
            reason = NO_ANSWER.get(error.kind)
            if reason is None:
                return Measurement(path, None, error.reason)
            return Measurement(path, undetermined(reason, error.reason))
        found = answer(collector.finish(), collector.seen, collector.heard, self.calibration, self.question)
        if cut:
            found = replace(found, warning=". ".join(filter(None, (found.warning, cut))))
        return Measurement(path, found)

    def _embed(self, path: Path, collector: RowCollector) -> str | None:
        """Embed the whole file, piece after piece; returns a sentence where only its beginning could be used."""
        whole = round(PIECE_SECONDS * self.question.fps)
        start: float | None = None
        while True:
            at = None if start is None else start + collector.windows / self.question.fps
            try:
                clip = self.read(path, at, PIECE_SECONDS)
            except MediaError as error:
                if start is None or at is None:
                    raise
                if error.kind == "no face":  # this minute shows none; the next one may
                    collector.skip(whole)
                    continue
                # it ended with the piece before, or is damaged from here on
                return None if error.kind == "short" else f"only the first {at - start:.0f} s were used: {error.reason}"
            start = clip.start if start is None else start
            windows = embed_clip(self.predictor, clip.video, clip.audio)
            if windows is not None:
                collector.add(windows)
            if windows is None or len(clip.video) < whole:
                return None
