"""The sounds of English as a formant synthesizer and a drawn mouth need them.

Formants are those of an adult male voice: vowels after Peterson & Barney (1952), the rest after Klatt (1980), "Software
for a cascade/parallel formant synthesizer", tables II and III; consonants stand for the place that the formants of
their neighbours point to (their locus). Durations are Klatt's (1976) inherent ones, rounded. The mouth is drawn by
viseme: opening of the jaw from 0 (lips shut) to 1, width from 0.5 (rounded) to 1.2 (spread).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["vowel", "glide", "nasal", "stop", "affricate", "fricative", "aspirate", "pause"]
Formants = tuple[float, float, float]


@dataclass(frozen=True)
class Mouth:
    """What is seen of a phone."""

    opening: float
    width: float
    teeth: float = 0.0
    """How much of the upper teeth shows, 0..1."""
    tongue: float = 0.0
    shut: bool = False
    """The lips must meet: these are the moments that readers of lips go by."""


@dataclass(frozen=True)
class Phone:
    """One sound of the inventory."""

    kind: Kind
    milliseconds: float
    """Inherent duration."""
    formants: Formants
    """F1 to F3 in Hz; the locus for consonants."""
    mouth: Mouth
    voicing: float = 1.0
    """Strength of the voice source."""
    noise: str | None = None
    """Which spectrum of NOISES the turbulence has."""
    loudness: float = 0.0
    """Strength of that turbulence."""
    glide: Formants | None = None
    """Where a diphthong ends."""
    mouth_end: Mouth | None = None


NOISES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "s": ((4900, 1300, 1.0), (6700, 1800, 0.8)),
    "sh": ((2600, 700, 1.0), (4200, 1600, 0.55), (5800, 1800, 0.25)),
    "f": ((1600, 2600, 0.5), (7200, 4000, 0.8)),
    "th": ((1500, 2000, 0.25), (6200, 2600, 0.9)),
    "p": ((650, 700, 1.0), (1500, 1600, 0.4)),
    "t": ((3900, 1500, 1.0), (6000, 2600, 0.7)),
    "k": ((1900, 600, 1.0), (3600, 1600, 0.3)),
}
"""Spectra of turbulence: resonances of the cavity before it, (Hz, bandwidth in Hz, height)."""


def _vowel(ms: float, f1: float, f2: float, f3: float, opening: float, width: float) -> Phone:
    return Phone("vowel", ms, (f1, f2, f3), Mouth(opening, width))


def _diphthong(
    ms: float, start: Formants, end: Formants, opens: tuple[float, float], ends: tuple[float, float]
) -> Phone:
    return Phone("vowel", ms, start, Mouth(*opens), glide=end, mouth_end=Mouth(*ends))


_LIPS_SHUT = Mouth(0.0, 1.0, shut=True)
_LIP_ON_TEETH = Mouth(0.1, 1.0, teeth=0.9)
_TONGUE_SHOWN = Mouth(0.25, 1.0, tongue=1.0)
_BEHIND_TEETH = Mouth(0.2, 1.03, teeth=0.7)
_ROUND = Mouth(0.24, 0.66, teeth=0.5)
_LOOSE = Mouth(0.33, 1.0)

PHONES: dict[str, Phone] = {
    "SIL": Phone("pause", 0, (500, 1500, 2500), Mouth(0.02, 1.0), voicing=0),
    "IY": _vowel(110, 280, 2290, 3010, 0.25, 1.2),
    "IH": _vowel(80, 390, 1990, 2550, 0.38, 1.08),
    "EH": _vowel(100, 530, 1840, 2480, 0.6, 1.06),
    "AE": _vowel(140, 660, 1720, 2410, 0.85, 1.1),
    "AA": _vowel(150, 730, 1090, 2440, 1.0, 0.95),
    "AO": _vowel(150, 570, 840, 2410, 0.75, 0.7),
    "UH": _vowel(85, 440, 1020, 2240, 0.34, 0.7),
    "UW": _vowel(120, 300, 870, 2240, 0.2, 0.52),
    "AH": _vowel(100, 640, 1190, 2390, 0.7, 1.0),
    "AX": _vowel(60, 500, 1400, 2400, 0.4, 0.97),
    "ER": _vowel(120, 490, 1350, 1690, 0.36, 0.75),
    "EY": _diphthong(140, (480, 1900, 2550), (330, 2200, 2700), (0.52, 1.1), (0.3, 1.15)),
    "AY": _diphthong(170, (700, 1200, 2450), (390, 2000, 2550), (0.95, 1.0), (0.38, 1.1)),
    "OW": _diphthong(150, (540, 1000, 2350), (380, 850, 2250), (0.58, 0.65), (0.28, 0.52)),
    "AW": _diphthong(180, (700, 1250, 2450), (430, 1000, 2300), (0.95, 1.0), (0.35, 0.6)),
    "OY": _diphthong(190, (550, 850, 2400), (380, 2000, 2500), (0.62, 0.6), (0.36, 1.1)),
    "W": Phone("glide", 65, (290, 610, 2150), Mouth(0.1, 0.48), 0.7),
    "Y": Phone("glide", 60, (260, 2070, 3020), Mouth(0.25, 1.12), 0.7),
    "R": Phone("glide", 65, (310, 1060, 1380), Mouth(0.26, 0.7), 0.75),
    "L": Phone("glide", 65, (330, 1050, 2880), Mouth(0.36, 1.0, tongue=0.8), 0.7),
    "M": Phone("nasal", 70, (270, 1000, 2150), _LIPS_SHUT, 0.6),
    "N": Phone("nasal", 60, (270, 1650, 2600), _BEHIND_TEETH, 0.6),
    "NG": Phone("nasal", 75, (270, 2100, 2450), _LOOSE, 0.6),
    "P": Phone("stop", 90, (260, 950, 2200), _LIPS_SHUT, 0, "p", 0.5),
    "T": Phone("stop", 85, (260, 1750, 2650), _BEHIND_TEETH, 0, "t", 0.6),
    "K": Phone("stop", 90, (260, 1900, 2300), _LOOSE, 0, "k", 0.6),
    "B": Phone("stop", 70, (230, 950, 2200), _LIPS_SHUT, 0.15, "p", 0.35),
    "D": Phone("stop", 60, (230, 1750, 2650), _BEHIND_TEETH, 0.15, "t", 0.35),
    "G": Phone("stop", 65, (230, 1900, 2300), _LOOSE, 0.15, "k", 0.4),
    "CH": Phone("affricate", 120, (280, 1850, 2700), _ROUND, 0, "sh", 0.8),
    "JH": Phone("affricate", 95, (260, 1850, 2700), _ROUND, 0.2, "sh", 0.5),
    "F": Phone("fricative", 90, (330, 1100, 2150), _LIP_ON_TEETH, 0, "f", 0.3),
    "V": Phone("fricative", 60, (290, 1100, 2150), _LIP_ON_TEETH, 0.4, "f", 0.15),
    "TH": Phone("fricative", 90, (330, 1350, 2550), _TONGUE_SHOWN, 0, "th", 0.25),
    "DH": Phone("fricative", 45, (290, 1350, 2550), _TONGUE_SHOWN, 0.45, "th", 0.1),
    "S": Phone("fricative", 100, (330, 1600, 2600), _BEHIND_TEETH, 0, "s", 0.8),
    "Z": Phone("fricative", 75, (290, 1600, 2600), _BEHIND_TEETH, 0.35, "s", 0.45),
    "SH": Phone("fricative", 105, (310, 1850, 2650), _ROUND, 0, "sh", 0.8),
    "HH": Phone("aspirate", 60, (500, 1500, 2500), _LOOSE, 0),
}


def phone_of(symbol: str) -> Phone:
    """The phone of a symbol with or without the digit of its stress."""
    return PHONES[symbol.rstrip("012")]
