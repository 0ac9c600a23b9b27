"""When which phone is spoken, and at what pitch: the exact truth behind a recording and a talking face.

Time is counted in ticks of 5 ms: 80 samples at 16 kHz, an eighth of a video frame at 25 fps. Every phone begins and
ends on a tick, and an utterance is a whole number of video frames long, so that all its times are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from phones import phone_of
from pronunciation import pronounce
from voices import Voice

TICK = 0.005
"""Seconds."""
TICKS_PER_FRAME = 8

STRESS = {"0": 0.75, "1": 1.1, "2": 1.0}
"""Factors on the duration of vowels: weak, accented, full (Klatt 1976, rounded)."""
FINAL = 1.35
"""Factor on the last syllable before a pause."""
IN_CLUSTER = 0.8
"""Factor on a consonant beside another of the same word."""
JITTER = 0.1
"""Spread of durations, as a share."""
SHORTEST = 6
"""Ticks."""
EDGE, COMMA, STOP = (40, 90), (18, 34), (45, 80)
"""Ticks of silence around an utterance, at a comma and after a sentence: least and most."""

DECLINATION = 4.0
"""Semitones by which pitch falls over a sentence."""
ACCENT, FALL = 3.5, 4.0
"""Semitones: rise at an accented syllable, fall at the end of a sentence."""


@dataclass(frozen=True)
class Segment:
    """One phone from tick ``start`` up to tick ``stop``."""

    symbol: str
    """ARPABET with the stress of vowels; SIL for silence."""
    start: int
    stop: int

    @property
    def phone(self) -> str:
        return self.symbol.rstrip("012")

    @property
    def ticks(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Utterance:
    """Phones without gaps from tick 0 on, and words between them."""

    segments: tuple[Segment, ...]
    words: tuple[tuple[str, int, int], ...]
    """Word, first tick, tick behind the last."""
    sentences: tuple[tuple[int, int], ...]
    """First tick and the one behind the last of each."""

    @property
    def ticks(self) -> int:
        return self.segments[-1].stop

    @property
    def frames(self) -> int:
        """Video frames at 25 fps."""
        return self.ticks // TICKS_PER_FRAME

    def phone_times(self) -> list[tuple[str, float, float]]:
        """(phone, start, end) in seconds."""
        return [(s.phone, round(s.start * TICK, 3), round(s.stop * TICK, 3)) for s in self.segments]

    def word_times(self) -> list[tuple[str, float, float]]:
        """(word, start, end) in seconds."""
        return [(word, round(start * TICK, 3), round(stop * TICK, 3)) for word, start, stop in self.words]


def plan_utterance(
    sentences: Sequence[Sequence[Sequence[str]]], voice: Voice, random: np.random.Generator
) -> Utterance:
    """Give sentences of phrases of words their times. Raises UserError for a word that has no pronunciation."""
    segments: list[Segment] = []
    words: list[tuple[str, int, int]] = []
    spans = []
    now = _silence(segments, 0, EDGE, random)
    for number, phrases in enumerate(sentences):
        begin = now
        for place, phrase in enumerate(phrases):
            if place:
                now = _silence(segments, now, COMMA, random)
            for index, word in enumerate(phrase):
                start = now
                for symbol, share in _shares(pronounce(word), final=index == len(phrase) - 1):
                    wanted = share * phone_of(symbol).milliseconds / 1000 / voice.rate
                    ticks = wanted * (1 + JITTER * (2 * random.random() - 1)) / TICK
                    stop = now + max(SHORTEST, round(ticks))
                    segments.append(Segment(symbol, now, stop))
                    now = stop
                words.append((word, start, now))
        spans.append((begin, now))
        if number < len(sentences) - 1:
            now = _silence(segments, now, STOP, random)
    _silence(segments, now, EDGE, random, whole_frames=True)
    return Utterance(tuple(segments), tuple(words), tuple(spans))


def _shares(symbols: Sequence[str], final: bool) -> list[tuple[str, float]]:
    """Phones of a word, each with the factor on its duration."""
    vowels = [place for place, symbol in enumerate(symbols) if symbol[-1].isdigit()]
    shares = []
    for place, symbol in enumerate(symbols):
        if place in vowels:
            share = STRESS[symbol[-1]]
        else:
            beside = {place - 1, place + 1} & set(range(len(symbols)))
            share = IN_CLUSTER if beside - set(vowels) else 1.0
        shares.append((symbol, share * FINAL if final and place >= vowels[-1] else share))
    return shares


def _silence(
    segments: list[Segment], now: int, between: tuple[int, int], random: np.random.Generator, whole_frames: bool = False
) -> int:
    """Add a pause; returns where it ends."""
    stop = now + int(random.integers(between[0], between[1] + 1))
    if whole_frames:
        stop = -(-stop // TICKS_PER_FRAME) * TICKS_PER_FRAME
    segments.append(Segment("SIL", now, stop))
    return stop


def pitch_contour(utterance: Utterance, voice: Voice, random: np.random.Generator) -> np.ndarray:
    """Fundamental frequency in Hz at the middle of every tick: falling lines, accents, final falls, a slow tremble."""
    time = np.arange(utterance.ticks) + 0.5
    semitones = np.zeros(utterance.ticks)
    for start, stop in utterance.sentences:
        inside = slice(start, stop)
        along = (time[inside] - start) / (stop - start)
        semitones[inside] = DECLINATION * (0.5 - along)
        semitones[inside] -= FALL * np.clip((time[inside] - stop) / 40 + 1, 0, 1)
    for segment in utterance.segments:
        if segment.symbol.endswith("1"):
            middle = (segment.start + segment.stop) / 2
            height = ACCENT * (0.6 + 0.8 * random.random())
            semitones += height * np.cos(np.clip((time - middle) / 25, -1, 1) * np.pi / 2) ** 2
    tremble = sum(
        0.15 * np.sin(2 * np.pi * (frequency * time * TICK + random.random())) for frequency in (1.7, 4.1, 7.3)
    )
    base = voice.pitch * (1 + 0.05 * (2 * random.random() - 1))
    return base * 2 ** ((voice.lively * semitones + tremble) / 12)
