"""Captions and their speech: what is said, when, and whether it sounds as its phones should."""

import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmssl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "data_prep"))

from captions import PLACE_WORDS, SIZE_WORDS, caption, spoken, vocabulary  # noqa: E402
from make_world import WorldConfig, make_world  # noqa: E402
from modalities import say  # noqa: E402
from phones import PHONES, phone_of  # noqa: E402
from pronunciation import PRONUNCIATIONS, pronounce  # noqa: E402
from scenes import COLOURS, SHAPES, draw_scene, draw_scenes  # noqa: E402
from speech_synthesis import RATE, synthesize  # noqa: E402
from utterance import TICK, TICKS_PER_FRAME, Segment, Utterance, pitch_contour, plan_utterance  # noqa: E402
from voices import VOICES  # noqa: E402

BEN = next(voice for voice in VOICES if voice.name == "ben")


def test_captions_tell_the_labels_and_more() -> None:
    captions = [(scene, caption(scene, seed=0)) for scene in draw_scenes(400, seed=0)]
    misled = 0
    for scene, text in captions:
        low = text.lower()
        assert scene.shape in low
        assert scene.colour in low
        assert any(word in low for word in SIZE_WORDS[scene.size])
        assert any(words in low for words in PLACE_WORDS[scene.place])
        misled += any(other in low.split() for other in (*SHAPES, *COLOURS) if other not in (scene.shape, scene.colour))
        assert text[0].isupper()
        assert text.endswith(".")
        assert " a orange" not in low
    assert 0.15 < misled / 400 < 0.6  # distractors: single words are not enough
    assert len({text for _, text in captions}) > 390
    assert {text.count(".") for _, text in captions} == {1, 2, 3, 4}
    assert caption(draw_scene(7, 0), 0) == captions[7][1] != caption(draw_scene(7, 0), 1)


def test_every_word_is_in_the_dictionary_and_nothing_else() -> None:
    assert vocabulary() == set(PRONUNCIATIONS)
    said = {
        word for scene in draw_scenes(2000, 1) for s in spoken(caption(scene, 1)) for phrase in s for word in phrase
    }
    assert said <= vocabulary()
    for word in PRONUNCIATIONS:
        symbols = pronounce(word)
        assert all((phone_of(symbol).kind == "vowel") == symbol[-1].isdigit() for symbol in symbols), word
    assert {symbol.rstrip("012") for word in PRONUNCIATIONS for symbol in pronounce(word)} < set(PHONES)
    with pytest.raises(UserError, match=r"'zebra'.*pronunciation\.py"):
        pronounce("zebra")


def test_times_are_whole_and_words_are_their_phones() -> None:
    for number, voice in enumerate(VOICES):
        scene = draw_scene(number, 0)
        utterance = plan_utterance(spoken(caption(scene, 0)), voice, np.random.default_rng(number))
        segments = utterance.segments
        assert segments[0].start == 0
        assert all(before.stop == after.start for before, after in pairwise(segments))
        assert utterance.ticks == utterance.frames * TICKS_PER_FRAME
        assert [word for word, _, _ in utterance.words] == [w for s in spoken(caption(scene, 0)) for p in s for w in p]
        for word, start, stop in utterance.words:
            inside = [segment.symbol for segment in segments if start <= segment.start < stop]
            assert tuple(inside) == pronounce(word)
            assert {start, stop} <= {segment.start for segment in segments}
    rates = {voice.name: ticks_a_phone(voice) for voice in VOICES}
    assert max(rates, key=lambda name: rates[name]) == "hugo"  # the slowest in voices.py
    assert min(rates, key=lambda name: rates[name]) == "finn"


def ticks_a_phone(voice) -> float:
    utterance = plan_utterance([[["the", "large", "red", "circle"]]] * 4, voice, np.random.default_rng(0))
    return float(np.mean([segment.ticks for segment in utterance.segments if segment.phone != "SIL"]))


def band(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """Power in dB between two frequencies around the middle of every tick (10 ms windows)."""
    size = round(TICK * RATE)
    padded = np.pad(samples / 32768, size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * size)[::size] * np.hanning(2 * size)
    power = np.abs(np.fft.rfft(windows, 512)) ** 2
    frequency = np.fft.rfftfreq(512, 1 / RATE)
    return 10 * np.log10(power[:, (frequency >= low) & (frequency < high)].sum(1) + 1e-9)


def best_lag(truth: np.ndarray, heard: np.ndarray, most: int = 10) -> int:
    """Ticks by which ``heard`` is behind ``truth``, by correlation."""
    inside = slice(most, len(truth) - most)
    scores = [np.corrcoef(truth[inside], np.roll(heard, -lag)[inside])[0, 1] for lag in range(-most, most + 1)]
    return int(np.argmax(scores)) - most


@pytest.mark.parametrize("number", [3, 12, 20])
def test_phones_are_heard_when_the_labels_say(number: int) -> None:
    said = say(draw_scene(number, 0), 0, "formants")
    assert said.utterance is not None
    assert len(said.samples) == said.utterance.ticks * 80
    ticks = said.utterance.ticks
    voiced, hissing = np.zeros(ticks), np.zeros(ticks)
    for name, start, stop in said.utterance.phone_times():
        inside = slice(round(start / TICK), round(stop / TICK))
        voiced[inside] = PHONES[name].kind in ("vowel", "glide", "nasal")
        hissing[inside] = name in ("S", "Z", "SH")
    low = band(said.samples, 80, 1000)[:ticks]
    # resonators ring: a sound is behind its source by a millisecond or two, less than a tick
    assert best_lag(voiced, low) in (0, 1)
    assert np.median(low[voiced == 1]) > np.median(low[voiced == 0]) + 15
    if hissing.any():
        high = band(said.samples, 4500, 8000)[:ticks]
        assert best_lag(hissing, high) in (0, 1)
        assert np.median(high[hissing == 1]) > np.median(high[voiced == 1]) + 6


def one_phone(symbol: str, ticks: int = 100) -> Utterance:
    segments = (Segment("SIL", 0, 20), Segment(symbol, 20, 20 + ticks), Segment("SIL", 20 + ticks, 40 + ticks))
    return Utterance(segments, (("-", 20, 20 + ticks),), ((20, 20 + ticks),))


def formants(samples: np.ndarray) -> np.ndarray:
    """Frequencies of linear prediction's poles (autocorrelation method), narrow ones, in Hz; at half the rate."""
    signal = samples.astype(float)
    signal = np.append(signal[0], signal[1:] - 0.95 * signal[:-1])
    spectrum = np.fft.rfft(signal)
    signal = np.fft.irfft(spectrum[: len(spectrum) // 2 + 1])  # 8 kHz
    signal = signal * np.hamming(len(signal))
    correlation = np.correlate(signal, signal, "full")[len(signal) - 1 :][:11]
    matrix = correlation[np.abs(np.subtract.outer(np.arange(10), np.arange(10)))]
    roots = np.roots(np.append(1, -np.linalg.solve(matrix, correlation[1:11])))
    roots = roots[roots.imag > 0]
    width, frequency = -np.log(np.abs(roots)) * 8000 / np.pi, np.angle(roots) * 8000 / (2 * np.pi)
    return np.sort(frequency[(width < 500) & (frequency > 150)])


@pytest.mark.parametrize("vowel", ["IY", "IH", "EH", "AE", "AA", "AH", "UH", "ER"])
def test_vowels_have_their_formants(vowel: str) -> None:
    sound = synthesize(one_phone(f"{vowel}1"), BEN, np.random.default_rng(1))
    found = formants(sound[50 * 80 : 90 * 80])
    for wanted, allowed in zip(PHONES[vowel].formants[:2], (0.2, 0.1), strict=True):
        # linear prediction is drawn to harmonics, and a tract differs by up to 2 % between recordings
        assert np.min(np.abs(found - wanted)) < allowed * wanted, (vowel, found)


def test_a_shorter_tract_raises_formants() -> None:
    second = {}
    for voice in VOICES:
        found = formants(synthesize(one_phone("EH1"), voice, np.random.default_rng(2))[50 * 80 : 90 * 80])
        second[voice.name] = float(found[np.argmin(np.abs(found - 1840 * voice.tract))])
        assert second[voice.name] == pytest.approx(1840 * voice.tract, rel=0.1)
    assert second["eva"] > 1.15 * second["dan"]


def test_pitch_is_that_of_the_voice() -> None:
    for voice in VOICES:
        utterance = one_phone("AA1")
        sound = synthesize(utterance, voice, np.random.default_rng(3)).astype(float)[60 * 80 : 80 * 80]
        random = np.random.default_rng(3)
        random.random()  # the tract's
        wanted = pitch_contour(utterance, voice, random)[60:80].mean()
        correlation = np.correlate(sound, sound, "full")[len(sound) - 1 :]
        shortest = round(RATE / wanted * 0.6)
        period = shortest + int(np.argmax(correlation[shortest : round(RATE / wanted * 1.5)]))
        assert RATE / period == pytest.approx(wanted, rel=0.04), voice.name
        assert abs(np.log2(wanted / voice.pitch)) < 0.5


def test_words_are_recognised_in_voices_never_heard() -> None:
    """The nearest spectrogram among other voices' words; speech is only of use if words differ more than voices do."""
    words = ("red", "green", "blue", "circle", "square", "star", "left", "top", "small", "large")
    spectrograms = {}
    for voice in VOICES[:4]:
        utterance = plan_utterance([[list(words)]], voice, np.random.default_rng(5))
        sound = synthesize(utterance, voice, np.random.default_rng(6))
        edges = [*range(100, 1000, 150), *range(1000, 8000, 400)]
        bands = np.stack([band(sound, low, high) for low, high in pairwise(edges)], 1)
        bands -= bands.mean(0)
        for word, start, stop in utterance.words:
            spectrograms[word, voice.name] = bands[np.linspace(start, stop - 1, 12).astype(int)].ravel()
    right = 0
    for (word, speaker), seen in spectrograms.items():
        others = [key for key in spectrograms if key[1] != speaker]
        right += min(others, key=lambda key, seen=seen: np.linalg.norm(spectrograms[key] - seen))[0] == word
    assert right / len(spectrograms) > 0.9  # 0.1 is chance


def test_speech_is_a_function_of_seed_and_scene() -> None:
    first, again, other = (say(draw_scene(9, 0), seed, "formants") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.words == again.words
    assert len(first.samples) != len(other.samples) or (first.samples != other.samples).any()


def test_speaking_is_faster_than_hearing() -> None:
    utterance = plan_utterance(spoken(caption(draw_scene(1, 0), 0)), BEN, np.random.default_rng(0))
    synthesize(utterance, BEN, np.random.default_rng(0))
    start = time.process_time()
    for _ in range(3):
        synthesize(utterance, BEN, np.random.default_rng(0))
    # 1/200 of its length on an idle core of 2023; far from it only when something has gone wrong
    assert (time.process_time() - start) / 3 < utterance.frames / 25 / 20


FAKE = f"""#!{sys.executable}
import io, sys, wave, math, struct
file, word = io.BytesIO(), sys.argv[-1]
stream = wave.open(file, "wb")
stream.setnchannels(1); stream.setsampwidth(2); stream.setframerate(22050)
count = 2205 * len(word)
tone = [int(9000 * math.sin(2 * math.pi * 440 * n / 22050)) for n in range(count)]
stream.writeframes(struct.pack("<%dh" % (count + 4000), *([0] * 2000 + tone + [0] * 2000)))
stream.close()
header = bytearray(file.getvalue())
struct.pack_into("<I", header, 4, 0x7FFFF024); struct.pack_into("<I", header, 40, 0x7FFFF000)  # as espeak-ng does
sys.stdout.buffer.write(header)
"""


def test_espeak_speaks_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = WorldConfig(tmp_path / "w", count=5, modalities=("speech",), synthesizer="espeak-ng", workers=1)
    with pytest.raises(UserError, match=r"espeak-ng is not on the PATH.*formants"):
        make_world(config)
    assert not (tmp_path / "w").exists()
    (tmp_path / "espeak-ng").write_text(FAKE)
    (tmp_path / "espeak-ng").chmod(0o755)
    said = say(draw_scene(3, 0), 0, "espeak-ng")
    assert said.utterance is None
    for word, start, stop in said.words:
        assert stop - start == pytest.approx(0.1 * len(word), abs=0.003)  # the tone of the program above
        inside = said.samples[round(start * RATE) + 50 : round(stop * RATE) - 50].astype(float)
        spectrum = np.abs(np.fft.rfft(inside * np.hanning(len(inside)), 2**15))
        assert np.argmax(spectrum) * RATE / 2**15 == pytest.approx(440, abs=6)
    between = said.samples[round(said.words[0][2] * RATE) + 20 : round(said.words[1][1] * RATE) - 20]
    assert not between.any()
    with pytest.raises(UserError, match="times of phones"):
        WorldConfig(modalities=("faces",), synthesizer="espeak-ng")
