"""How a mistake of the user reaches the user: one clear sentence, a non-zero exit code, no traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmssl.terminal import tell

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT): saved, but not finished."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, or of somebody's share of it, that takes no more."""
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of what may not be read or written."""


class UserError(ValueError):
    """Something the user can put right. The message names the file or value and says what to do."""


def lost_worker(error: RuntimeError) -> str | None:
    """The sentence for a process of torch's loader that has died; None when the error is another."""
    # how torch begins to say it, wherever the trainer is just then
    if not str(error).startswith("DataLoader worker"):
        return None
    said = str(error).splitlines()[0].rstrip(". ")
    return f"{said}: is memory short? Give fewer --workers, and go on with --resume"


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Wrap a command's main: what the user can put right ends it with one sentence and exit code 2.

    That is a :class:`UserError`, a full disk, what may not be read or written, and a worker process that was killed.
    Every other exception is a bug of ours and keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        tell(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        tell("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except RuntimeError as error:
        sentence = lost_worker(error)
        if sentence is None:
            raise
        tell(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno in FULL:
            remedy = "free some space or choose another place to write to"
        elif error.errno in FORBIDDEN:
            remedy = "change its permissions or choose another place"
        else:
            raise
        where = f" ({error.filename})" if error.filename else ""
        tell(f"error: {error.strerror}{where}: {remedy}", file=sys.stderr)
        raise SystemExit(2) from None
