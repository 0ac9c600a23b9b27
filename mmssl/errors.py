"""How a mistake of the user reaches the user: one clear sentence, a non-zero exit code, no traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT): saved, but not finished."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, or of somebody's share of it, that takes no more."""
LOST_WORKER = "DataLoader worker"
"""How torch begins to say that a process of its loader has died; it says so wherever the trainer is just then."""
LOST_WORKER_REMEDY = "is memory short? Give fewer --workers, and go on with --resume"
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of what may not be read or written."""


def printable(text: str) -> str:
    """Text for a terminal: what cannot be seen or could steer it, as in names of strangers' files, is spelled out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


class UserError(ValueError):
    """Something the user can put right. The message names the file or value and says what to do."""


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Wrap a command's main: what the user can put right ends it with one sentence and exit code 2.

    That is a :class:`UserError`, a full disk, what may not be read or written, and a worker process that was killed.
    Every other exception is a bug of ours and keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except RuntimeError as error:
        if not str(error).startswith(LOST_WORKER):
            raise
        print(f"error: {str(error).splitlines()[0].rstrip('. ')}: {LOST_WORKER_REMEDY}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno in FULL:
            remedy = "free some space or choose another place to write to"
        elif error.errno in FORBIDDEN:
            remedy = "change its permissions or choose another place"
        else:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {printable(f'{error.strerror}{where}')}: {remedy}", file=sys.stderr)
        raise SystemExit(2) from None
