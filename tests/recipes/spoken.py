"""Recordings that tests talk with: words are tones, and speakers are voices of another pitch."""

import json
import wave
from pathlib import Path

import numpy as np

RATE = 16_000
WORDS = {"low": (300, 300), "high": (1500, 1500), "up": (400, 2500)}
VOICES = {"ann": 0.9, "bob": 1.0, "cy": 1.1, "dee": 1.25}


def say(word: str, voice: str, seconds: float) -> np.ndarray:
    """A tone that rises from one frequency to another."""
    first, last = WORDS[word]
    frequency = VOICES[voice] * np.linspace(first, last, round(seconds * RATE))
    envelope = np.hanning(len(frequency))
    return 0.5 * envelope * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def write_wav(file: Path, samples: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def write_spoken(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """Recordings of two or three words in noise, with a manifest of words, times, speakers; ``label`` is the first."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        voice = list(VOICES)[number % len(VOICES)]
        said = [str(word) for word in random.choice(list(WORDS), 2 + number % 2)]
        parts, words, time = [np.zeros(round(0.1 * RATE))], [], 0.1
        for word in said:
            seconds = round(float(random.uniform(0.25, 0.45)), 3)
            parts += [say(word, voice, seconds), np.zeros(round(0.1 * RATE))]
            words.append([word, round(time, 3), round(time + seconds, 3)])
            time += seconds + 0.1
        samples = np.concatenate(parts)
        name = f"{voice}-{number:02d}.wav"
        write_wav(folder / name, samples + 0.01 * random.standard_normal(len(samples)))
        rows.append({"file": name, "label": said[0], "speaker": voice, "text": " ".join(said), "words": words})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
