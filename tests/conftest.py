"""Shapes and types written in mmssl's signatures are checked while the tests run.

``MMSSL_TEST_UNCHECKED=1 pytest ...`` leaves the checks out: for timing, or to see whether a failure is theirs.
"""

import functools
import inspect
import os
from collections.abc import Callable, Generator
from types import FunctionType
from typing import Any

# before torch is loaded, here and in the processes that tests start: small tensors gain nothing from threads, which
# wait for each other tens of times longer than they compute where the cores are shared
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import pytest
import torch
from beartype import beartype

CHECKED_CALLS, CHECKED_AFTERWARDS = 25, 32
"""Calls of each function that are checked in a test: the first ones, and one in so many. A wrong shape or type is wrong
in the first of them; the hundreds of steps that follow in a training would take 1.5 times as long."""
calls: dict[FunctionType, int] = {}
"""Of each function, in this test."""


def jaxtyped(function: object = None, *, typechecker: Callable) -> object:
    """Stands in for jaxtyping's decorator, which checks every call twice and binds its arguments by name: some 50 us.

    That is for shapes that must agree between arguments. A function that names no shape is checked by beartype alone,
    which tells as much for a tenth of the time.
    """
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(function, FunctionType):
        return shape_checks(function, typechecker=typechecker)
    hints = list(getattr(function, "__annotations__", {}).values())
    shapes = "jaxtyping" in repr(hints) or any(isinstance(hint, str) for hint in hints)
    checked: Any = None  # made when first called: most functions are not, in most processes

    @functools.wraps(function)
    def call(*positional: object, **named: object) -> object:
        nonlocal checked
        count = calls[function] = calls.get(function, 0) + 1
        if jaxtyping.config.jaxtyping_disable or (count > CHECKED_CALLS and count % CHECKED_AFTERWARDS):
            return function(*positional, **named)
        if checked is None:
            checked = shape_checks(function, typechecker=typechecker) if shapes else beartype(function)
        return checked(*positional, **named)

    return call


if os.environ.get("MMSSL_TEST_UNCHECKED", "0") == "0":
    shape_checks = jaxtyping.jaxtyped
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook("mmssl", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    calls.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test of refusals passes what the annotations forbid; there the function itself has to speak, not the checks."""
    function = getattr(item, "function", None)
    refusal = function is not None and "raises(UserError" in inspect.getsource(inspect.unwrap(function))
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", before or refusal)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def one_thread() -> Generator[None]:
    """Numbers to the last bit, and on a busy machine time: threads that wait for each other cost more than they bring
    on small problems."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
