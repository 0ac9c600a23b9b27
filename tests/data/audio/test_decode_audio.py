"""A segment is what slicing the whole gives, in every format, in a file of its own or inside a tar."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import PYAV, SOUNDFILE, pack, soundfile, tone, write, write_any

from mmssl.data.audio import decode, wave
from mmssl.data.audio.header import RECORDINGS, AudioLimits
from mmssl.data.limits import MediaError
from mmssl.data.stores import Extent, TarStore

# AAC fills bands with noise of its own, which depends on where decoding began
ALIKE = {"aac.m4a": 0.2, "aac.ts": 0.2, "opus.opus": 2e-3}
EXACT = 1e-6


def extent_of(path: Path) -> Extent:
    return Extent(str(path), 0, os.path.getsize(path))


def whole(extent: Extent, header: decode.Header) -> np.ndarray:
    return np.concatenate([decode.mix(block) for block in decode.blocks(extent, header)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return {name: write_any(folder, name) for name in (*SOUNDFILE, *PYAV)}


@pytest.mark.parametrize("inside", ["file", "tar", "tar.gz"])
@pytest.mark.parametrize("name", [*SOUNDFILE, *PYAV])
def test_a_segment_is_a_slice_of_the_whole(files: dict[str, Path], tmp_path: Path, name: str, inside: str) -> None:
    extent = extent_of(files[name])
    if inside != "file":
        store = TarStore(pack(tmp_path / f"a.{inside}", [files["wav8.wav"], files[name]]), RECORDINGS.wanted)
        extent = store.extent(store.names.index(f"audio/{name}"))
    header = decode.read_header(extent, name)
    samples = whole(extent, header)
    header = decode.Header(**{**{k: getattr(header, k) for k in header.__slots__}, "frames": len(samples)})
    for start, stop in ((0, 100), (20_000, 21_000), (len(samples) - 4000, len(samples)), (17_777, 17_778)):
        found = decode.read_frames(extent, header, start, stop)
        assert found.shape == (stop - start,)
        assert np.abs(found - samples[start:stop]).max() < ALIKE.get(name, EXACT)


@pytest.mark.parametrize("name", SOUNDFILE)
def test_samples_are_those_of_soundfile(files: dict[str, Path], name: str) -> None:
    extent = extent_of(files[name])
    header = decode.read_header(extent, name)
    expected, rate = soundfile.read(files[name], dtype="float32")
    assert (header.rate, header.frames, header.channels) == (rate, len(expected), 1)
    assert np.abs(whole(extent, header) - expected).max() < 2e-6
    plain = name in ("wav16.wav", "wav24.wav", "wav32.wav", "wav8.wav", "float.wav", "double.wav", "extensible.wav")
    assert (header.decoder == "pcm") == (plain or name == "rf64.wav")


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]),
    channels=st.integers(1, 5),
    frames=st.integers(1, 3000),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_plain_pcm_equals_soundfile(
    tmp_path_factory: pytest.TempPathFactory, kind: str, channels: int, frames: int, edges: tuple[float, float]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "pcm.wav", tone(1, 3000, channels)[:frames], 3000, ("WAV", kind))
    start, stop = sorted(int(edge * frames) for edge in edges)
    header = wave.read_header(extent_of(path))
    assert header is not None
    found = wave.read_frames(extent_of(path), header, start, stop)
    expected, _ = soundfile.read(path, start=start, stop=stop, dtype="float32", always_2d=True)
    assert np.array_equal(found, expected)
    mixed = decode.read_frames(extent_of(path), header, start, stop)
    assert np.allclose(mixed, expected.mean(1), atol=1e-7)


def pcm_file(path: Path, *, riff: int, data: int, frames: int = 100, before: bytes = b"") -> Extent:
    """A 16-bit WAV file with whatever sizes."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    body = form + before + struct.pack("<4sI", b"data", data) + np.arange(frames, dtype="<i2").tobytes()
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + body)
    return extent_of(path)


@pytest.mark.parametrize(
    ("riff", "data", "expected"),
    [
        (236, 200, 100),
        (0, 0, 100),  # a recorder that was cut off
        (0xFFFFFFFF, 0xFFFFFFFF, 100),  # written to a pipe
        (236, 0xFFFFFFFF, 100),
        (236, 10_000, 100),  # a file cut short
        (236, 61, 30),  # half a frame is none
        (36, 0, 0),
    ],
)
def test_wrong_sizes_in_the_header(tmp_path: Path, riff: int, data: int, expected: int) -> None:
    header = wave.read_header(pcm_file(tmp_path / "a.wav", riff=riff, data=data))
    assert header is not None
    assert header.frames == expected


def test_chunks_before_the_samples_are_passed_over(tmp_path: Path) -> None:
    picture = struct.pack("<4sI", b"LIST", 5001) + bytes(5002)
    extent = pcm_file(tmp_path / "a.wav", riff=1, data=200, before=picture)
    header = wave.read_header(extent)
    assert header is not None
    assert wave.read_frames(extent, header, 7, 9).ravel().tolist() == [7 / 32768, 8 / 32768]


def test_a_header_of_endless_chunks_ends(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(struct.pack("<4sI4s", b"RIFF", 0, b"WAVE") + b"junk\0\0\0\0" * 5000)
    assert wave.read_header(extent_of(tmp_path / "a.wav")) is None


def refusal(path: Path, limits: AudioLimits | None = None) -> MediaError:
    def read() -> None:
        whole(extent_of(path), decode.read_header(extent_of(path), path.name, limits))

    with pytest.raises(MediaError) as caught:
        read()
    return caught.value


def test_what_is_refused(tmp_path: Path) -> None:
    sound = tone(1)
    sound[70] = np.nan
    error = refusal(write(tmp_path / "nan.wav", sound, kind=("WAV", "FLOAT")))
    assert (error.kind, error.reason) == ("broken", "1 samples are no numbers (NaN or infinite)")
    loud = refusal(write(tmp_path / "counts.wav", tone(1) * 32768, kind=("WAV", "DOUBLE")))
    assert "far beyond full scale" in loud.reason
    (tmp_path / "text.wav").write_text("not a recording")
    assert "no recording that can be read (soundfile: " in refusal(tmp_path / "text.wav").reason
    (tmp_path / "empty.mp3").touch()
    assert refusal(tmp_path / "empty.mp3").reason == "the file is empty"
    assert refusal(write(tmp_path / "none.wav", tone(0))).reason == "it has no samples"
    long = refusal(write(tmp_path / "long.wav", tone(8)), AudioLimits(hours=0.002))
    assert long.kind == "limit"
    cut = write(tmp_path / "cut.flac", tone(8), kind=("FLAC", "PCM_16"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert refusal(cut).kind == "broken"


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    for name, kind in (("a.wav", ("WAV", "PCM_16")), ("a.flac", ("FLAC", "PCM_16"))):
        path = write(tmp_path / name, tone(2), kind=kind)
        header = decode.read_header(extent_of(path), name)
        write(path, tone(1), kind=kind)
        with pytest.raises(MediaError, match=r"shorter than it was|it ends after 1\.00 s, before the 2\.00 s"):
            decode.read_frames(extent_of(path), header, 10_000, 20_000)


def test_decoding_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    path = write(tmp_path / "a.flac", tone(2), kind=("FLAC", "PCM_16"))
    header = decode.read_header(extent_of(path), "a.flac")
    monkeypatch.setattr("mmssl.data.audio.libsndfile.read_frames", lambda *_: time.sleep(30))
    started = time.perf_counter()
    with pytest.raises(MediaError, match=r"longer than 0.2 s"):
        decode.read_frames(extent_of(path), header, 0, 10, AudioLimits(seconds=0.2))
    assert time.perf_counter() - started < 5
