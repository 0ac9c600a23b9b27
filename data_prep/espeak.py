"""Captions spoken by espeak-ng, for those who have it: another synthesizer to compare with the built-in one.

It is a program of its own (GPL 3), never a part of this package: it is called where it is found on the PATH. It tells
no times, so each word is spoken by itself and the words are set in a row: the times of words are exact, and there are
none of phones.
"""

import functools
import io
import shutil
import subprocess
import wave

import numpy as np
from speech_synthesis import LEVEL, RATE
from voices import Voice

from mmssl.errors import UserError

PROGRAM = "espeak-ng"
PATIENCE = 30
"""Seconds that one word may take."""
GAP, COMMA, STOP, EDGE = 0.03, 0.15, 0.35, 0.3
"""Seconds of silence behind a word, a phrase, a sentence, and around everything."""


def require_espeak() -> None:
    """Raises UserError where the program is missing."""
    if shutil.which(PROGRAM) is None:
        raise UserError(
            f"{PROGRAM} is not on the PATH: install it (on Debian and Ubuntu: apt install {PROGRAM}), "
            "or leave --synthesizer at formants, which needs nothing"
        )


def speak(sentences: list[list[list[str]]], voice: Voice) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Sound of sentences of phrases of words, int16 ``[sample]`` at 16 kHz, and (word, start, end) in seconds."""
    edge = round(EDGE * RATE)
    parts, words, now = [np.zeros(edge, np.int16)], [], edge
    for phrases in sentences:
        for phrase in phrases:
            for place, word in enumerate(phrase):
                sound = _word(word, voice)
                pause = GAP if place < len(phrase) - 1 else COMMA if phrase is not phrases[-1] else STOP
                words.append((word, round(now / RATE, 4), round((now + len(sound)) / RATE, 4)))
                parts += [sound, np.zeros(round(pause * RATE), np.int16)]
                now += len(sound) + len(parts[-1])
    return np.concatenate(parts), words


@functools.lru_cache(maxsize=4096)
def _word(word: str, voice: Voice) -> np.ndarray:
    """One word without the silence around it."""
    # its pitch runs from 0 to 99 around 50, its speed in words a minute
    pitch = round(np.clip(50 + 25 * np.log2(voice.pitch / 150), 0, 99))
    variant = "f2" if voice.pitch > 150 else "m3"
    command = [
        PROGRAM,
        "-v",
        f"en-us+{variant}",
        "-p",
        str(pitch),
        "-s",
        str(round(165 * voice.rate)),
        "--stdout",
        word,
    ]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
        with wave.open(io.BytesIO(done.stdout)) as stream:
            rate = stream.getframerate()
            # its header counts 2^31 bytes, as the length is not known when it begins to write
            samples = np.frombuffer(stream.readframes(2**24), "<i2").astype(np.float64) / 32768
    except (OSError, subprocess.SubprocessError, wave.Error, EOFError) as error:
        raise UserError(f"{PROGRAM} could not speak '{word}' ({error}): try it by hand: {' '.join(command)}") from None
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if not len(loud):
        raise UserError(f"{PROGRAM} was silent for '{word}': try it by hand: {' '.join(command)}")
    samples = _resample(samples[loud[0] : loud[-1] + 1], rate)
    samples *= LEVEL / np.sqrt(np.mean(samples**2))
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """A whole word to 16 kHz by its spectrum: silence around it keeps its ends from meeting."""
    margin = rate // 50
    count = len(samples) + 2 * margin
    wanted = round(count * RATE / rate)
    spectrum = np.fft.rfft(np.pad(samples, margin))
    bins = wanted // 2 + 1
    kept = np.zeros(bins, complex)
    kept[: min(bins, len(spectrum))] = spectrum[:bins]
    cut = round(margin * RATE / rate)
    return np.fft.irfft(kept, wanted)[cut : wanted - cut] * (wanted / count)
