"""Bytes from elsewhere: http and https by the standard library, everything else (s3, gs, memory ...) through fsspec."""

import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from mmssl.data.limits import MediaError
from mmssl.errors import UserError

WAITS = (0.5, 2.0, 8.0, 20.0)
"""Seconds before the second, third ... try."""
SECONDS = 60.0
"""Without a byte, after which a try counts as failed."""
PIECE = 16 * 2**20
"""Bytes asked for at once."""
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_url(data: object) -> bool:
    """Whether data is elsewhere: s3://bucket/photos, https://host/photos; not a path, and not file:///photos."""
    scheme = str(data).split("://", 1)[0] if "://" in str(data) else ""
    return scheme.isidentifier() and scheme not in ("", "file", "local")


def local_path(data: object) -> str:
    """A path without file:// before it."""
    text = str(data)
    for scheme in ("file://", "local://"):
        if text.startswith(scheme):
            return urllib.parse.unquote(text[len(scheme) :])
    return text


class Remote:
    """A folder behind a URL. Connections are made by each process for itself."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system: Any = None
        self._process = -1
        if self.scheme not in ("http", "https"):
            self._fsspec()  # a missing package is said at once

    @property
    def scheme(self) -> str:
        return self.url.split("://", 1)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url,)

    def at(self, file: str) -> str:
        return f"{self.url}/{file}"

    def fetch(self, file: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a file, tried several times; perhaps fewer, at least one.

        Raises:
            MediaError: naming the URL, when it stays unreachable.
        """
        why = ""
        for number in range(len(WAITS) + 1):
            try:
                found = self._get(file, start, stop)
                if found:
                    return found
                why = "it is shorter than the index says"
            except _FOR_GOOD as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                raise MediaError("unreadable", f"{self.at(file)} cannot be fetched ({reason}): check the URL") from None
            except Exception as error:  # clients of stores raise nearly anything; most of it passes
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
            if number < len(WAITS):
                time.sleep(WAITS[number])
        raise MediaError(
            "unreadable",
            f"{self.at(file)} cannot be fetched after {len(WAITS) + 1} tries ({why}): check the URL, the network and "
            "the credentials, and go on with --resume",
        )

    def read(self, file: str, most: int = 2**28) -> bytes:
        """A whole small file whose size is not known. Raises UserError as :meth:`fetch`."""
        return self.fetch(file, 0, most)

    def _get(self, file: str, start: int, stop: int) -> bytes:
        if self.scheme in ("http", "https"):
            return self._http(self.at(file), start, stop)
        return self._fsspec().cat_file(self.at(file), start=start, end=stop)

    def _http(self, url: str, start: int, stop: int) -> bytes:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{stop - 1}"})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                if answer.status == 206:
                    return answer.read(stop - start)
                # this server knows no ranges and begins at the beginning
                passed = 0
                while passed < start:
                    piece = answer.read(min(PIECE, start - passed))
                    if not piece:
                        return b""
                    passed += len(piece)
                return answer.read(stop - start)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(2, "there is no such file") from None
            if error.code in (401, 403):
                raise PermissionError(13, f"HTTP {error.code}: it may not be read") from None
            raise

    def _fsspec(self) -> Any:
        if self._system is None or self._process != os.getpid():
            import fsspec

            try:
                self._system, self._process = fsspec.filesystem(self.scheme), os.getpid()
            except ImportError:
                package = _PACKAGES.get(self.scheme)
                remedy = f"pip install {package}" if package else "install the package that fsspec names for it"
                raise UserError(f"{self.url}: {self.scheme}:// needs a package that is missing: {remedy}") from None
            except ValueError:
                raise UserError(
                    f"{self.url}: '{self.scheme}' is no kind of URL that fsspec knows: correct it"
                ) from None
        return self._system
