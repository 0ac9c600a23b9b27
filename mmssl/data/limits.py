"""What one file may cost, and what happens when it costs more or cannot be read.

Limits are checked on the header, before anything large is allocated. The time limit works by SIGALRM, hence in the main
thread of a process on Unix, and between two calls of a decoder: Pillow feeds most formats in pieces of 64 kB, so it is
stopped there, but one call of libwebp, libavif, libtiff or torchvision runs to its end. What hangs inside such a call
is killed from outside when files are read by :mod:`mmssl.data.pool` with worker processes.
"""

import _signal  # pyright: ignore[reportMissingImports]  # signal.signal adds enums: 40 µs after a decoder has run
import contextlib
import os
import signal
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.errors import UserError


class MediaError(UserError):
    """A file that gives no picture or no sound.

    ``kind`` is one word for counting: broken, limit, timeout, memory, unreadable, unsupported, small, short, silent.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return MediaError, (self.kind, self.reason)


@dataclass(frozen=True)
class Limits:
    """What one file may cost."""

    pixels: int = 100_000_000
    """Height times width. The largest cameras give about this many; a decompression bomb claims more."""
    file_bytes: int = 512 * 2**20
    """Size of the file as stored."""
    seconds: float = 20.0
    """Time to decode one file."""


def default_memory_limit() -> int:
    """A quarter of the machine's memory, shared by the processes that torchrun started there, at most 4 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4 * 2**30, memory // 4 // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def regular_size(path: str | Path) -> int:
    """Bytes of a file on disk. Raises MediaError when there is none or it is a named pipe, whose opening would hang."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise MediaError("unreadable", f"cannot be opened ({error.strerror or error})") from None
    except ValueError as error:  # a name that no file can have
        raise MediaError("unreadable", f"cannot be opened ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("unreadable", "it is not a regular file")
    return status.st_size


def read_bytes(source: bytes | Path, limits: Limits) -> bytes:
    """The bytes of a file within the size limit. Raises MediaError when it is empty, too large or not readable."""
    if isinstance(source, Path):
        size = regular_size(source)
        raw = b""
        try:
            if size <= limits.file_bytes:
                with source.open("rb", buffering=0) as file:
                    raw = file.read()
        except OSError as error:
            raise MediaError("unreadable", f"cannot be opened ({error.strerror or error})") from None
    else:
        raw, size = source, len(source)
    if size > limits.file_bytes:
        raise MediaError("limit", f"the file is larger than the limit of {limits.file_bytes / 2**20:.0f} MiB")
    if not raw:
        raise MediaError("broken", "the file is empty")
    return raw


_QUARTERS = 4


class time_limit:  # noqa: N801, a with statement; generators would cost more than a small file's decoding
    """Stop the block with a MediaError after so many seconds; does nothing outside a main thread (see above).

    A process that was halted (Ctrl-Z, a scheduler's SIGSTOP) meanwhile did not take that long: the alarm rings in
    quarters, and a halted process hears one of them at most.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._armed, self._heard = seconds, False, 0

    def _ring(self, signum: int, frame: Any) -> None:  # noqa: ARG002
        self._heard += 1
        # one that is within a single call of a decoder hears one too, but uses the processor
        long = time.monotonic() - self._started >= self._seconds
        if self._heard == _QUARTERS or (long and time.process_time() - self._worked >= self._seconds):
            raise MediaError("timeout", f"decoding took longer than {self._seconds:g} s")

    def __enter__(self) -> None:
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            return
        self._started, self._worked = time.monotonic(), time.process_time()
        self._previous = _signal.signal(signal.SIGALRM, self._ring)
        quarter = self._seconds / _QUARTERS
        self._outer = signal.setitimer(signal.ITIMER_REAL, quarter, quarter)
        self._armed = True

    def __exit__(self, *_: object) -> None:
        if not self._armed:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        _signal.signal(signal.SIGALRM, self._previous)
        outer, interval = self._outer
        if outer:  # somebody else's timer was running: let it go on
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - self._started), 1e-3), interval)


@contextlib.contextmanager
def untimed() -> Iterator[None]:
    """The clock of a time limit around the block stands still: a library that is being loaded is no fault of the file.

    Nor could it be used again after an alarm that rang while it was half loaded.
    """
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0) if hasattr(signal, "setitimer") else (0.0, 0.0)
    try:
        yield
    finally:
        if left:
            signal.setitimer(signal.ITIMER_REAL, left, interval)


class guarded:  # noqa: N801
    """Whatever a decoder throws becomes a MediaError; warnings about odd metadata stay silent.

    Args:
        seconds: the block may take; None for any time.
        warns: whether its library has warnings to silence; changing the filters takes as long as the alarm.
    """

    def __init__(self, seconds: float | None, warns: bool = True) -> None:
        self._alarm = None if seconds is None else time_limit(seconds)
        self._warnings = warnings.catch_warnings() if warns else None

    def __enter__(self) -> None:
        if self._warnings is not None:
            self._warnings.__enter__()
            warnings.simplefilter("ignore")
        if self._alarm is not None:
            self._alarm.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._alarm is not None:
            self._alarm.__exit__()
        if self._warnings is not None:
            self._warnings.__exit__(kind, error, trace)
        # a MediaError is a UserError
        if not isinstance(error, Exception) or isinstance(error, UserError):
            return
        if isinstance(error, MemoryError):
            raise MediaError("memory", "decoding needs more memory than there is") from None
        # decoders raise nearly every type on damaged input
        reason = str(error).splitlines()[0] if str(error) else ""
        raise MediaError(
            "broken", f"cannot be decoded ({type(error).__name__}{': ' if reason else ''}{reason})"
        ) from None
