"""How a talking face moves: the mouth follows the phones without delay, head and eyelids follow nothing.

A frame shows the face at the moment of its time stamp, frame i at i / 25 seconds. Viseme targets are averaged under a
symmetric window, so that the movement neither leads nor lags the sound; where lips must meet, they do.
"""

from dataclasses import dataclass

import numpy as np
from phones import PHONES, Mouth
from utterance import TICKS_PER_FRAME, Utterance

FPS = 25
FACE_STREAM = 4
"""Stream of random numbers that decides how heads move; see ``scenes.LOOK_STREAM``."""

BLEND, SHUTTING = 19, 9
"""Ticks over which the mouth goes from one viseme to the next, and over which lips close."""
BLINK = 0.2
"""Seconds from open through shut to open."""
BLINK_EVERY = (1.5, 4.5)
"""Seconds between two blinks."""
SWAY = (0.035, 0.025, 0.07, 0.05, 0.05)
"""Largest movement: sideways and up and down in half pictures, roll in radians, turn and nod in half pictures (how far
features slide over the head)."""


@dataclass(frozen=True)
class Motion:
    """Everything that moves, ``[frame]`` each."""

    opening: np.ndarray
    """Of the mouth: 0 shut, 1 wide open."""
    width: np.ndarray
    """Of the mouth: 1 at rest, below rounded, above spread."""
    teeth: np.ndarray
    tongue: np.ndarray
    lids: np.ndarray
    """0 open, 1 shut."""
    sway: np.ndarray
    """Sideways, down, roll, turn, nod ``[frame, 5]``, as SWAY."""


def move(utterance: Utterance, random: np.random.Generator) -> Motion:
    """The motion of a face that says the utterance, at 25 frames a second."""
    opening, width, teeth, tongue, shut = _visemes(utterance)
    now = np.arange(utterance.frames) / FPS
    # a frame's moment is the boundary between two ticks: the mean of both
    at = np.arange(utterance.frames) * TICKS_PER_FRAME
    before = np.maximum(at - 1, 0)
    mouth = [(track[at] + track[before]) / 2 for track in (opening * (1 - shut), width, teeth, tongue)]
    sway = _sway(now, random)  # before the blinks, whose number depends on the length of what is said
    return Motion(*mouth, lids=_blinks(now, random), sway=sway)


def _visemes(utterance: Utterance) -> tuple[np.ndarray, ...]:
    """Opening, width, teeth, tongue and shut lips by tick."""
    targets = np.empty((utterance.ticks, 5))
    for place, segment in enumerate(utterance.segments):
        phone = PHONES[segment.phone]
        mouth = phone.mouth
        if phone.kind == "aspirate":
            mouth = PHONES[utterance.segments[place + 1].phone].mouth
        first, last = _row(mouth), _row(phone.mouth_end or mouth)
        along = np.clip(((np.arange(segment.ticks) + 0.5) / segment.ticks - 0.25) * 2, 0, 1)[:, None]
        targets[segment.start : segment.stop] = (1 - along) * first + along * last
    slow = [_smooth(column, BLEND) for column in targets[:, :4].T]
    return *slow, np.minimum(1.25 * _smooth(targets[:, 4], SHUTTING), 1)


def _row(mouth: Mouth) -> np.ndarray:
    return np.array([mouth.opening, mouth.width, mouth.teeth, mouth.tongue, float(mouth.shut)])


def _smooth(track: np.ndarray, ticks: int) -> np.ndarray:
    window = np.hanning(ticks + 2)[1:-1]
    return np.convolve(np.pad(track, ticks // 2, mode="edge"), window / window.sum(), "valid")


def _blinks(now: np.ndarray, random: np.random.Generator) -> np.ndarray:
    lids = np.zeros(len(now))
    moment = random.uniform(0, BLINK_EVERY[1])
    while moment < now[-1]:
        lids = np.maximum(lids, np.cos(np.clip((now - moment) / (BLINK / 2), -1, 1) * np.pi / 2) ** 2)
        moment += random.uniform(*BLINK_EVERY)
    return lids


def _sway(now: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Slow waves of three frequencies for each way of moving."""
    frequency = random.uniform(0.08, 0.6, (3, 1, len(SWAY)))
    phase = random.uniform(0, 1, (3, 1, len(SWAY)))
    strength = random.dirichlet(np.ones(3), len(SWAY)).T[:, None]
    waves = strength * np.sin(2 * np.pi * (frequency * now[:, None] + phase))
    return waves.sum(0) * np.array(SWAY)
