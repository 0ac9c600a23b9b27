"""How worker processes begin: forked where that is safe, and then without what the parent had not thrown away yet.

A forked process inherits the garbage of its parent too, and would collect it: objects whose end waits for threads that
only the parent has. A PyAV encoder with threads of its own, forgotten in a cycle (its stream and its container name
each other), hung every worker that came to collect it, in C, where no alarm is heard.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Literal

# fork shares what the parent has loaded; elsewhere it is not available or not safe
Method = Literal["fork", "spawn"]
START_METHOD: Method = "fork" if sys.platform == "linux" else "spawn"


@contextlib.contextmanager
def beginning() -> Iterator[None]:
    """Around the start of a worker: until it has said :func:`begun`, it collects nothing, and nor does its parent."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def begun() -> None:
    """In the worker, before anything else: what was there at its start is its parent's to throw away."""
    gc.freeze()
    gc.enable()
