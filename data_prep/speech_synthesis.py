"""A formant synthesizer: an utterance and a voice into sound.

The plan is Klatt's (1980, "Software for a cascade/parallel formant synthesizer"): a voice source and aspiration noise
pass a cascade of resonators, the vocal tract; the turbulence of consonants passes the cavity before its place. The
source is the derivative of the glottal flow x^2 - x^3, where x runs from 0 to 1 while the glottis is open (KLGLOTT88;
Klatt & Klatt 1990); its sudden closure is rounded over a sample to either side so that it folds no overtones back
(PolyBLEP; Valimaki & Huovilainen 2007).

Filters change every tick (5 ms). Instead of running sample by sample, stretches of two ticks under Hann windows, which
add up to one, are filtered by the response in their middle and added again: all arithmetic is on whole arrays.
"""

from dataclasses import dataclass

import numpy as np
from phones import NOISES, PHONES, Phone
from utterance import Segment, Utterance, pitch_contour
from voices import Voice

RATE = 16_000
TICK_SAMPLES = 80
LENGTH = 8 * TICK_SAMPLES
"""Samples of a filtered stretch: two ticks and 30 ms for the resonators to ring."""
_BINS = LENGTH // 2 + 1
_DELAY = np.exp(-2j * np.pi * np.arange(_BINS) / LENGTH)[None].astype(np.complex64)
"""z^-1 on the unit circle."""

UPPER_FORMANTS = ((3400, 200), (4100, 250), (5000, 350), (6000, 450), (7000, 600))
"""F4 and on, Hz and bandwidth: they hardly depend on what is said."""
BANDWIDTHS = {"nasal": (90, 250, 300), "stop": (120, 120, 150), "aspirate": (200, 120, 140)}
BANDWIDTH = (65, 85, 130)
NASAL_ZEROS = {"M": 1000.0, "N": 1750.0, "NG": 2800.0}
NASAL_WIDTH = 300.0
TRANSITION = 13
"""Ticks over which formants move from one phone to the next: 65 ms."""
BURST = 2
"""Ticks that a stop's burst is loud."""
LEVEL = 0.08
"""Root mean square of the speech, of full scale."""

# strengths of the sources before the filters, set so that levels are those of Klatt's figures: S about 8 dB and F about
# 22 dB below an open vowel
_ASPIRATION, _TURBULENCE = 0.06, 0.35


@dataclass(frozen=True)
class _Tracks:
    """Parameters by tick."""

    formants: np.ndarray
    """Hz ``[tick, 3]``."""
    bandwidths: np.ndarray
    voicing: np.ndarray
    aspiration: np.ndarray
    turbulence: np.ndarray
    spectrum: np.ndarray
    """Number of the spectrum of turbulence."""
    zero: np.ndarray
    """Hz of the nasal zero."""
    nasal: np.ndarray
    """0 without, 1 with that zero."""


def synthesize(utterance: Utterance, voice: Voice, random: np.random.Generator) -> np.ndarray:
    """Sound of an utterance: int16 ``[ticks * 80]`` at 16 kHz, mono."""
    tract = voice.tract * (1 + 0.02 * (2 * random.random() - 1))
    pitch = pitch_contour(utterance, voice, random)
    tracks = _tracks(utterance)
    count = utterance.ticks * TICK_SAMPLES
    noise = random.standard_normal((3, count), np.float32)

    wave, is_open = _glottal_wave(_to_samples(pitch, count), voice.open_quotient)
    voicing = _to_samples(tracks.voicing, count)
    breath = _ASPIRATION * _to_samples(tracks.aspiration, count) + _ASPIRATION * voice.breath * 8 * voicing * is_open
    throat = wave * voicing + noise[0] * breath
    # turbulence of a voiced sound comes in puffs
    turbulence = noise[1] * _to_samples(tracks.turbulence, count) * np.where(voicing > 0.1, 0.4 + 0.6 * is_open, 1.0)

    spectra = _noise_spectra(tract)[_between_ticks(tracks.spectrum)]
    through = np.fft.rfft(_stretches(throat), LENGTH) * _tract_response(tracks, voice, tract)
    through += np.fft.rfft(_stretches(_TURBULENCE * turbulence), LENGTH) * spectra
    sound = _add(np.fft.irfft(through, LENGTH))[:count]

    loud = np.sqrt(np.mean(sound[np.repeat(tracks.voicing > 0.5, TICK_SAMPLES)] ** 2))
    level = LEVEL * 10 ** (0.15 * (2 * random.random() - 1))
    hiss = 10 ** (-3.2 + 0.5 * random.random())  # of the recording: 64 to 54 dB below full scale
    sound = sound * (level / loud) + 0.3 * hiss * noise[2]
    return np.round(np.clip(sound, -1, 1) * 32767).astype(np.int16)


def _tracks(utterance: Utterance) -> _Tracks:
    """What each phone asks for, tick by tick, with formants that move smoothly."""
    segments = utterance.segments
    total = utterance.ticks
    formants, bandwidths = np.empty((total, 3)), np.empty((total, 3))
    voicing, aspiration, turbulence = np.zeros(total), np.zeros(total), np.zeros(total)
    zero, nasal = np.full(total, 1000.0), np.zeros(total)
    spectrum = np.zeros(total, int)
    names = list(NOISES)
    last = 0
    for place, segment in enumerate(segments):
        phone, inside = PHONES[segment.phone], slice(segment.start, segment.stop)
        formants[inside] = _targets(segments, place, phone)
        bandwidths[inside] = BANDWIDTHS.get(phone.kind, BANDWIDTH)
        voicing[inside] = phone.voicing
        if phone.kind == "nasal":
            zero[inside], nasal[inside] = NASAL_ZEROS[segment.phone], 1.0
        elif phone.kind == "aspirate":
            aspiration[inside] = 1.0
        elif phone.kind == "fricative":
            turbulence[inside] = phone.loudness
        elif phone.kind in ("stop", "affricate"):
            _release(segments, place, phone, voicing, aspiration, turbulence)
        if phone.noise:  # a window reaches into the neighbour: its silent ticks keep the spectrum
            spectrum[last : segment.stop] = names.index(phone.noise)
            last = segment.stop
    spectrum[last:] = spectrum[last - 1]
    smooth = np.hanning(TRANSITION + 2)[1:-1]
    return _Tracks(
        _smooth(formants, smooth), _smooth(bandwidths, smooth[::2]), voicing, aspiration, turbulence, spectrum,
        _smooth(zero[:, None], smooth)[:, 0], _smooth(nasal[:, None], smooth[::2])[:, 0],
    )  # fmt: skip


def _targets(segments: tuple[Segment, ...], place: int, phone: Phone) -> np.ndarray:
    """Formants a phone aims at: Hz ``[tick, 3]`` or ``[3]``."""
    if phone.glide is not None:  # a diphthong rests, glides in the middle half, and rests
        ticks = segments[place].ticks
        along = np.clip(((np.arange(ticks) + 0.5) / ticks - 0.25) * 2, 0, 1)[:, None]
        return (1 - along) * np.array(phone.formants) + along * np.array(phone.glide)
    follower = PHONES[segments[min(place + 1, len(segments) - 1)].phone]
    if phone.kind == "aspirate":  # H is a whispered beginning of what follows
        return np.array(follower.formants)
    target = np.array(phone.formants)
    if phone.noise == "k" and follower.kind in ("vowel", "glide"):  # the tongue meets the palate near the vowel's place
        target[1] = 0.5 * (target[1] + min(2300.0, follower.formants[1] + 200))
    return target


def _release(
    segments: tuple[Segment, ...], place: int, phone: Phone,
    voicing: np.ndarray, aspiration: np.ndarray, turbulence: np.ndarray,
) -> None:  # fmt: skip
    """The parts of a stop: closure, burst, and for P, T, K a puff of breath unless behind S."""
    segment = segments[place]
    closed = segment.start + round(segment.ticks * (0.45 if phone.kind == "affricate" else 0.6))
    voicing[closed : segment.stop] = 0.5 if phone.voicing else 0.0
    if phone.kind == "affricate":
        turbulence[closed : segment.stop] = phone.loudness
        voicing[closed : segment.stop] = phone.voicing
        return
    turbulence[closed : closed + BURST] = phone.loudness
    after_s = place > 0 and segments[place - 1].phone == "S"
    if phone.voicing == 0:
        turbulence[closed + BURST : segment.stop] = 0.15 * phone.loudness
        aspiration[closed : segment.stop] = 0.2 if after_s else 0.6


def _smooth(track: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Each column of ``[tick, column]`` averaged under a window, its ends held."""
    half = len(window) // 2
    held = np.pad(track, ((half, half), (0, 0)), mode="edge")
    window = window / window.sum()
    return np.stack([np.convolve(column, window, "valid") for column in held.T], 1)


def _to_samples(track: np.ndarray, count: int) -> np.ndarray:
    """A track by tick as one by sample, in straight lines from tick to tick: half way up at a boundary."""
    where = (np.arange(count) + 0.5) / TICK_SAMPLES - 0.5
    return np.interp(where, np.arange(len(track)), track).astype(np.float32)


def _glottal_wave(pitch: np.ndarray, open_quotient: float) -> tuple[np.ndarray, np.ndarray]:
    """Derivative of the glottal flow, and whether the glottis is open, by sample."""
    step = pitch.astype(np.float64) / RATE
    phase = np.cumsum(step) % 1.0
    x = phase / open_quotient
    is_open = x < 1
    wave = np.where(is_open, 2 * x - 3 * x * x, 0.0)
    behind = (phase - open_quotient) / step  # samples since closure
    wave -= np.where((behind >= 0) & (behind < 1), 0.5 * (1 - behind) ** 2, 0.0)
    wave += np.where((behind < 0) & (behind > -1), 0.5 * (1 + behind) ** 2, 0.0)
    return wave.astype(np.float32), is_open.astype(np.float32)


def _stretches(signal: np.ndarray) -> np.ndarray:
    """Two ticks around each tick boundary under a Hann window: ``[tick + 1, 160]``."""
    blocks = np.pad(signal, TICK_SAMPLES).reshape(-1, TICK_SAMPLES)
    window = np.hanning(2 * TICK_SAMPLES + 1)[:-1].astype(np.float32)
    return np.concatenate([blocks[:-1], blocks[1:]], 1) * window


def _add(stretches: np.ndarray) -> np.ndarray:
    """Overlap-add of filtered stretches; sample 0 is that of the signal."""
    count, blocks = len(stretches), LENGTH // TICK_SAMPLES
    total = np.zeros((count + blocks, TICK_SAMPLES), stretches.dtype)
    parts = stretches.reshape(count, blocks, TICK_SAMPLES)
    for block in range(blocks):
        total[block : block + count] += parts[:, block]
    return total.reshape(-1)[TICK_SAMPLES:]


def _between_ticks(track: np.ndarray) -> np.ndarray:
    """The value at each tick boundary for the windows around them: of the tick behind it."""
    return np.concatenate([track, track[-1:]])


def _tract_response(tracks: _Tracks, voice: Voice, tract: float) -> np.ndarray:
    """Response of the cascade at each tick boundary: complex64 ``[tick + 1, bin]``."""
    response = _fixed_response(voice, tract)
    formants, bandwidths = _middles(tracks.formants) * tract, _middles(tracks.bandwidths)
    for number in range(3):
        response = response / _polynomial(formants[:, number], bandwidths[:, number])
    nasal = _middles(tracks.nasal[:, None]).astype(np.float32)
    if nasal.any():
        some = np.flatnonzero(nasal[:, 0])
        zero = _polynomial(_middles(tracks.zero[:, None])[some, 0] * tract, np.full(len(some), NASAL_WIDTH))
        response[some] *= 1 + nasal[some] * (zero - 1)
    return response


def _middles(track: np.ndarray) -> np.ndarray:
    """Values at tick boundaries from those at the middles of ticks: ``[tick + 1, ...]``."""
    held = np.pad(track, ((1, 1), (0, 0)), mode="edge")
    return (held[1:] + held[:-1]) / 2


def _polynomial(frequency: np.ndarray, bandwidth: np.ndarray) -> np.ndarray:
    """Denominator of Klatt's resonator of unit gain at 0 Hz, ``[row, bin]``; dividing by it resonates."""
    c = -np.exp(-2 * np.pi * bandwidth / RATE)
    b = 2 * np.exp(-np.pi * bandwidth / RATE) * np.cos(2 * np.pi * frequency / RATE)
    gain = 1 / (1 - b - c)
    b, c, gain = ((values[:, None] * np.ones(1)).astype(np.float32) for values in (b, c, gain))
    return gain - (gain * b) * _DELAY - (gain * c) * _DELAY**2


def _fixed_response(voice: Voice, tract: float) -> np.ndarray:
    """What does not change in an utterance: the upper formants and the tilt of the source, ``[1, bin]``."""
    upper = [(f * tract, width) for f, width in UPPER_FORMANTS if f * tract < 0.48 * RATE]
    response = (1 - voice.tilt) / (1 - voice.tilt * _DELAY)
    for frequency, width in upper:
        response = response / _polynomial(np.array([frequency]), np.array([width]))
    return response.astype(np.complex64)


def _noise_spectra(tract: float) -> np.ndarray:
    """Magnitudes of the spectra of turbulence, all of the same power: float32 ``[spectrum, bin]``."""
    frequency = np.arange(_BINS) * RATE / LENGTH
    spectra = [
        sum(height / (1 + ((frequency - f * tract) / (width / 2)) ** 2) for f, width, height in peaks)
        for peaks in NOISES.values()
    ]
    return np.array([spectrum / np.sqrt(np.mean(spectrum**2)) for spectrum in spectra], np.float32)
