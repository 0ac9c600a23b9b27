"""Small data sets, their shards, and a server for them."""

import contextlib
import http.server
import io
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data_prep"))

from shard import main as shard_main


def picture(seed: int, height: int = 20, width: int = 24) -> bytes:
    """A PNG of noise, about 1.5 kB."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder: Path, count: int = 30, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Pictures of growing height in class folders; names that a tar reader could misread."""
    for number in range(count):
        path = folder / classes[number % len(classes)] / f"{number:02d}.a b.ü.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, 20 + number % 7))
    return folder


def make_shards(data: Path, out: Path, *flags: str, megabytes: float = 0.012) -> Path:
    """By the command, as a user does."""
    shard_main(["--data", str(data), "--out", str(out), "--shard-megabytes", str(megabytes), "--workers", "0", *flags])
    return out


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on this machine.

    ``asked`` counts answers by file name; of a file in ``cut`` only half is sent, as often as it says; ``ranges`` says
    whether parts of a file can be asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, ranges
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.cut: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        raw, name = path.read_bytes(), path.name
        self.server.asked[name] += 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and self.server.ranges:
            raw = raw[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.server.cut[name] > 0:
            self.server.cut[name] -= 1
            raw = raw[: len(raw) // 2]
        self.server.sent += len(raw)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(folder: Path, ranges: bool = True) -> Iterator[Server]:
    server = Server(folder, ranges)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
