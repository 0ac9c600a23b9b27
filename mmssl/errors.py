"""How a mistake of the user reaches the user: one clear sentence, a non-zero exit code, no traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT): saved, but not finished."""


class UserError(ValueError):
    """Something the user can put right. The message names the file or value and says what to do."""


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Wrap a command's main: a :class:`UserError` or a full disk ends it with one sentence and exit code 2.

    Every other exception is a bug of ours and keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror}{where}: free some space or choose another place to write to", file=sys.stderr)
        raise SystemExit(2) from None
