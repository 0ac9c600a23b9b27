"""Segments of MP3 files, cut packet by packet, against the whole file decoded by FFmpeg from its start."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sound_files import av, tone, write_pyav

from mmssl.data.audio import decode, mp3
from mmssl.data.audio.header import Header
from mmssl.data.stores import Extent

SECONDS = 6


def encoded(path: Path, rate: int, kilobits: int, channels: int) -> Extent:
    """Loud and quiet by turns, so that the encoder saves bits in one and spends them in the other."""
    sound = tone(SECONDS, rate, channels)
    loud = np.sin(2 * np.pi * 0.7 * np.arange(len(sound)) / rate) > 0
    write_pyav(
        path, sound * np.where(loud, 1, 0.01)[:, None].astype(np.float32), rate, "mp3", "libmp3lame", 1000 * kilobits
    )
    return Extent(str(path), 0, os.path.getsize(path))


def by_ffmpeg(path: str) -> np.ndarray:
    """All channels, decoded from the start, a packet at a time."""
    with av.open(path) as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], 1).T


@pytest.mark.parametrize(
    ("rate", "kilobits", "channels"),
    [
        (44_100, 128, 2),
        (48_000, 32, 1),
        (44_100, 32, 2),
        (24_000, 8, 1),  # bits lie 24 packets back
        (16_000, 8, 1),
        (22_050, 64, 2),
        (8_000, 8, 1),
    ],
)
def test_a_segment_is_exact_at_every_rate(tmp_path: Path, rate: int, kilobits: int, channels: int) -> None:
    extent = encoded(tmp_path / "a.mp3", rate, kilobits, channels)
    header = decode.read_header(extent, "a.mp3")
    whole = by_ffmpeg(extent.path)
    assert header.frames == len(whole) == SECONDS * rate
    starts = np.random.default_rng(0).integers(0, len(whole) - rate, 6).tolist()
    for start, stop in [
        (0, rate),
        (len(whole) - 7, len(whole)),
        (0, len(whole)),
        *((s, s + rate // 2) for s in starts),
    ]:
        found = mp3.read_frames(extent, header, start, stop)
        assert found is not None
        assert found.shape == (stop - start, channels)
        assert np.array_equal(found, whole[start:stop])


def test_what_is_no_plain_row_of_packets_is_left_to_the_container(tmp_path: Path) -> None:
    extent = encoded(tmp_path / "a.mp3", 16_000, 32, 1)
    header = decode.read_header(extent, "a.mp3")
    start, stop = 60_000, 76_000
    expected = decode.read_frames(extent, header, start, stop)
    raw = Path(extent.path).read_bytes()

    def refused(raw: bytes, header: Header = header, stop: int = stop) -> Extent:
        path = tmp_path / "b.mp3"
        path.write_bytes(raw)
        other = Extent(str(path), 0, len(raw))
        assert mp3.read_frames(other, header, start, stop) is None
        return other

    # rubbish between two packets before the segment: the container looks for the next one
    packet = raw.find(b"\xff\xf3", len(raw) // 2)
    refused(raw[:packet] + bytes(1000) + raw[packet:])
    # beyond the end, where an encoder's padding lies
    refused(raw, stop=header.frames + 1)
    refused(raw[: len(raw) * 5 // 9])
    # a header of another time
    refused(raw, replace(header, channels=2))
    refused(raw, replace(header, rate=22_050))
    assert np.array_equal(
        expected, decode.read_frames(refused(raw, replace(header, format="MP3/mp3")), header, start, stop)
    )
