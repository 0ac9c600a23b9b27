"""Who speaks: voices that differ in pitch, rate, vocal tract and source, each with a face of its own."""

from dataclasses import dataclass

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """A face. Colours are RGB in 0..1, lengths in units of half the picture's side."""

    skin: Colour
    hair: Colour
    lips: Colour
    eyes: Colour
    head: tuple[float, float]
    """Half width and half height."""
    long_hair: bool = False
    moustache: bool = False


@dataclass(frozen=True)
class Voice:
    """A speaker."""

    name: str
    pitch: float
    """Mean fundamental frequency in Hz."""
    lively: float
    """Size of the movements of pitch; 1 is average."""
    rate: float
    """Speed; 1 is average."""
    tract: float
    """Factor on all formants: 1 is a vocal tract of 17.5 cm, 1.17 one of 15 cm."""
    breath: float
    """Noise in the open phase of the glottis."""
    open_quotient: float
    """Share of a period in which the glottis is open."""
    tilt: float
    """Pole of the low-pass on the source: 0 is bright, 0.9 is dull."""
    look: Look


PALE, TAN, BROWN, DARK = (0.93, 0.78, 0.70), (0.86, 0.66, 0.50), (0.66, 0.46, 0.33), (0.42, 0.28, 0.20)
RED_LIPS, PINK_LIPS, BROWN_LIPS = (0.72, 0.22, 0.24), (0.80, 0.42, 0.42), (0.55, 0.26, 0.24)

VOICES = (
    Voice("anna", 208, 1.2, 1.05, 1.16, 0.06, 0.62, 0.60,
          Look(PALE, (0.55, 0.32, 0.12), RED_LIPS, (0.25, 0.45, 0.65), (0.46, 0.64), long_hair=True)),
    Voice("ben", 112, 0.9, 0.95, 1.00, 0.02, 0.55, 0.45,
          Look(TAN, (0.16, 0.11, 0.08), PINK_LIPS, (0.35, 0.22, 0.12), (0.50, 0.66))),
    Voice("cleo", 182, 1.0, 0.90, 1.12, 0.10, 0.66, 0.70,
          Look(DARK, (0.07, 0.06, 0.06), BROWN_LIPS, (0.20, 0.12, 0.08), (0.47, 0.62), long_hair=True)),
    Voice("dan", 96, 0.8, 1.10, 0.95, 0.03, 0.50, 0.40,
          Look(PALE, (0.70, 0.68, 0.66), PINK_LIPS, (0.30, 0.42, 0.45), (0.49, 0.69), moustache=True)),
    Voice("eva", 236, 1.3, 1.15, 1.21, 0.05, 0.60, 0.55,
          Look(BROWN, (0.12, 0.08, 0.07), RED_LIPS, (0.28, 0.18, 0.10), (0.45, 0.60), long_hair=True)),
    Voice("finn", 134, 1.1, 1.20, 1.04, 0.04, 0.58, 0.50,
          Look(PALE, (0.78, 0.50, 0.22), PINK_LIPS, (0.30, 0.50, 0.35), (0.47, 0.66))),
    Voice("gina", 168, 0.9, 1.00, 1.09, 0.03, 0.54, 0.48,
          Look(TAN, (0.30, 0.18, 0.10), PINK_LIPS, (0.30, 0.35, 0.20), (0.48, 0.63))),
    Voice("hugo", 124, 1.0, 0.85, 0.98, 0.08, 0.60, 0.62,
          Look(BROWN, (0.10, 0.09, 0.09), BROWN_LIPS, (0.22, 0.14, 0.08), (0.51, 0.65), moustache=True)),
)  # fmt: skip
"""A probe that holds a quarter of the speakers out tests on two of them."""
