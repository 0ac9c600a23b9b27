"""Small files that claim, or unpack to, far more than they are: refused in little time and memory."""

import gzip
import io
import os
import resource
import struct
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import fork
from PIL import Image

from mmssl.data.images import open_images
from mmssl.data.images.decode import decode_image, read_header
from mmssl.data.images.photo import read_photo
from mmssl.data.limits import MediaError
from mmssl.data.stores import Extent, TarStore
from mmssl.data.text import open_texts
from mmssl.errors import UserError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
MEMORY = 300 * 2**20
"""Bytes of address space beyond what the process has."""


def within_limits(work: Callable[[], object], seconds: float = 20.0) -> None:
    """In a child with little memory, and processor time as a watch."""

    def limited() -> None:
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds + sum(os.times()[:2])) + 1,) * 2)
        work()

    pid = fork(limited)
    began = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        assert time.monotonic() - began < 20 * seconds, "it hangs"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0


def kind_of_refusal(read: Callable[[], object]) -> str | None:
    """None where it was read."""
    try:
        read()
    except MediaError as error:
        return error.kind
    return None


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress((b"\0" + bytes(3 * width)) * height) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    raw = bytearray(stream.getvalue())
    place = raw.index(b"\xff\xc0")
    struct.pack_into(">HH", raw, place + 5, height, width)
    return bytes(raw)


ZEROS = zlib.compress(bytes(100 * 2**20), 9)
PICTURES: dict[str, Callable[[], bytes]] = {
    "a PNG of 2^31 pixels a side": lambda: png(2**31 - 1, 2**31 - 1, pixels=b""),
    "a PNG of 30,000 pixels a side": lambda: png(30_000, 30_000, pixels=ZEROS),
    "a text of 100 MB in a PNG": lambda: png(4, 4, chunk(b"zTXt", b"Comment\0\0" + ZEROS)),
    "a profile of 100 MB in a PNG": lambda: png(4, 4, chunk(b"iCCP", b"icc\0\0" + ZEROS)),
    "more pixels than were promised": lambda: png(4, 4, pixels=ZEROS),
    "a JPEG of 65,500 pixels a side": lambda: jpeg(65_500, 65_500),
    "a GIF of 65,535 pixels a side": lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;",
    "an array of 2^40 bytes": lambda: b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, "
    b"'shape': (1048576, 1048576), }".ljust(77) + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("what", PICTURES)
def test_pictures(what: str, tmp_path: Path) -> None:
    raw = PICTURES[what]()
    assert len(raw) < 2**20

    def look() -> None:
        for read in (decode_image, read_header):
            assert kind_of_refusal(lambda read=read: read(raw)) in (None, "limit", "broken", "memory")
        (tmp_path / "photo.png").write_bytes(raw)
        try:
            photo = read_photo(tmp_path / "photo.png")
        except MediaError:
            return
        assert photo.size == (4, 4)

    within_limits(look)


def flac_claiming(samples: int) -> bytes:
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(4000, np.float32) + 0.1, 16_000, format="FLAC")
    raw = bytearray(stream.getvalue())
    raw[21] = (raw[21] & 0xF0) | (samples >> 32 & 0xF)  # STREAMINFO: 36 bits
    struct.pack_into(">I", raw, 22, samples & 0xFFFFFFFF)
    return bytes(raw)


def wav_claiming(size: int, rate: int = 16_000) -> bytes:
    fmt = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack(
        "<I", size
    ) + b"\1\0" * 1000  # fmt: skip


def rf64_claiming(samples: int) -> bytes:
    raw = wav_claiming(0xFFFFFFFF)
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 2 * samples, 2 * samples, samples, 0)
    return b"RF64" + raw[4:12] + ds64 + raw[12:]


@pytest.mark.parametrize("what", ["flac", "wav", "rf64"])
def test_recordings_that_claim_2_to_the_36_samples(what: str, tmp_path: Path) -> None:
    from mmssl.data.audio import decode

    raw = {"flac": flac_claiming, "rf64": rf64_claiming}.get(what, lambda _: wav_claiming(2**31))(2**36 - 1)
    (tmp_path / f"a.{what}").write_bytes(raw)

    def listen() -> None:
        extent = Extent(str(tmp_path / f"a.{what}"), 0, len(raw))
        frames = []

        def whole() -> None:
            header = decode.read_header(extent, f"a.{what}")
            frames.extend(map(len, decode.blocks(extent, header)))

        assert kind_of_refusal(whole) in (("limit", "broken") if what == "flac" else (None, "limit", "broken"))
        assert sum(frames) <= (4096 if what == "flac" else 1000)

    within_limits(listen)


@pytest.mark.parametrize("box", [b"mvhd", b"mdhd"])
def test_a_video_that_claims_to_last_for_years(box: bytes, tmp_path: Path) -> None:
    """By its header, or by time stamps: a tick of its tracks becomes a second, and a second some three hours."""
    pytest.importorskip("av")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data" / "video"))
    from video_files import plain

    from mmssl.data.video import ClipSettings, read_clip
    from mmssl.data.video.limits import VideoLimits

    raw = bytearray(plain(tmp_path / "a.mp4", 0.4, size=(32, 32), sound="aac").read_bytes())
    place, patched = raw.find(box), 0
    while place >= 0:
        struct.pack_into(">I", raw, place + 16, 1)  # ticks a second; version 0
        patched += 1
        place = raw.find(box, place + 1)
    assert patched
    (tmp_path / "long.mp4").write_bytes(raw)
    limits = VideoLimits(clip_bytes=2**22)

    def look() -> None:
        try:
            clip = read_clip(tmp_path / "long.mp4", ClipSettings(size=(16, 16)), limits=limits)
        except UserError:
            return
        assert clip.video.nbytes + clip.audio.nbytes <= limits.clip_bytes

    within_limits(look)


def test_a_text_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.data.text import files

    monkeypatch.setattr(files, "INFLATED", 2**24)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a line of a text\n" * (8 * 2**20), 9))
    assert (tmp_path / "bomb.txt.gz").stat().st_size < 2**20

    def look() -> None:
        with pytest.raises(UserError, match=r"bomb\.txt\.gz: .*it unpacks to more than 300 times its size"):
            open_texts(tmp_path / "bomb.txt.gz")

    within_limits(look)


def test_a_tar_that_unpacks_to_more_than_memory(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 64 * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(stream.getvalue(), 9))

    def look() -> None:
        with pytest.raises(UserError, match=r"unpacks to more than .*: store it as a plain \.tar"):
            TarStore(tmp_path / "bomb.tar.gz", lambda _: True, unpacked_limit=2**25)

    within_limits(look)


@pytest.mark.parametrize("kind", [b"L", b"x", b"g", b"K"])
def test_a_header_of_a_tar_that_claims_8_gb(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 2**33 - 1
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)

    def look() -> None:
        with pytest.raises(UserError):
            open_images(tmp_path / "a.tar")
        with pytest.raises(UserError):
            open_texts(tmp_path / "a.tar")

    within_limits(look)


def test_a_chain_of_headers_of_a_tar(tmp_path: Path) -> None:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = b"L", 1
    (tmp_path / "a.tar").write_bytes((link.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * 5000)

    def look() -> None:
        for read in (open_images, open_texts):
            with pytest.raises(UserError):
                read(tmp_path / "a.tar")

    within_limits(look)
