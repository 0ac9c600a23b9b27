"""What a user sees of mistakes and of a machine that refuses."""

import errno
import os

import pytest

from mmssl.errors import UserError, one_sentence_errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("a.png is empty: remove it"), "error: a.png is empty: remove it"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.bin"), "(a.bin): free some space"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "photos"), "(photos): change its permissions"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "change its permissions"),
    ],
)
def test_one_sentence_with_a_remedy_that_fits(error, words, capsys):
    with pytest.raises(SystemExit, match="2"), one_sentence_errors():
        raise error
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


def test_what_is_no_mistake_of_the_user_keeps_its_traceback():
    with pytest.raises(OSError, match="Broken pipe"), one_sentence_errors():
        raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
