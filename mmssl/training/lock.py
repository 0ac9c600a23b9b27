"""One writer at a time: a lock on a run folder that ends with its process, however that ends.

The lock is the kernel's (``flock``), so a killed process leaves none behind, and a file that says who holds it. On
network file systems it is as good as the server's: NFS of Linux passes it on to all machines, some other systems, and
mounts with ``local_lock``, only know of those on one machine.
"""

import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path

from mmssl.errors import FORBIDDEN, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """Held from when it is made until :meth:`release`, until nobody refers to it, or until the process ends.

    Raises UserError where another process (or another lock of this one) holds the folder, or it may not be written.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / NAME
        try:
            # no link: what it points to would be written to
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            remedy = "change its permissions" if error.errno in FORBIDDEN else "remove it"
            raise UserError(f"{file} cannot be opened ({error.strerror}): {remedy}, or choose another --out") from None
        if fcntl is not None:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._handle, 200).decode("utf-8", "replace").strip()
                self.release()
                raise UserError(
                    f"{folder} is being written by another process{f' ({holder})' if holder else ''}: let it end, or "
                    "choose another --out"
                ) from None
            except OSError:  # a file system without locks: better to go on than to refuse every run on it
                pass
        with suppress(OSError):  # a full disk: the lock itself needs no room
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _HELD.add(self)

    def release(self) -> None:
        """Let others write. More than once does no harm."""
        if self._handle >= 0 and fcntl is not None:
            with suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_UN)  # at once, also for a worker that was just forked
        self._leave()

    def _leave(self) -> None:
        """Close our handle; who else has it, by a fork, goes on to hold the lock."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.release()


def _leave_to_parent() -> None:
    """A forked worker shares the lock, and may outlive its killed parent for seconds: it gives up its share."""
    for lock in list(_HELD):
        lock._leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
