"""Configs are frozen dataclasses; this is their way to JSON and back. A key that nobody reads is an error."""

import dataclasses
import difflib
import json
import shlex
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmssl.errors import UserError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dict of a config dataclass; tuples and paths become lists and strings when written as JSON."""
    return dataclasses.asdict(config)


def nearest(word: Any, known: Iterable[Any]) -> str:
    """The end of a sentence about an unknown word."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names)}"


def command_line(*words: Any, **flags: Any) -> str:
    """What to type for these words and flags: None is left out, False is ``--no-flag``, a sequence follows its flag."""
    typed = [str(word) for word in words]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            typed += [f"--{flag}", *map(str, value)]
        elif value is not None:
            typed += [f"--{flag}", str(value)]
    return shlex.join(typed)


def _build(kind: Any, value: Any, where: str) -> Any:
    """``value``, as JSON holds it, as the annotation ``kind`` wants it. Raises UserError where it does not fit."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_dict(kind, value, where)
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _build_union(members, value, where)
    if origin is typing.Literal:
        if value not in members:
            raise UserError(f"{where}: '{value}' is not a choice; {nearest(value, members)}")
        return value
    if origin is tuple:
        entries = value if isinstance(value, (list, tuple)) else ()
        members = members[:1] * len(entries) if members[-1] is Ellipsis else members
        if isinstance(value, (list, tuple)) and len(entries) == len(members):
            pairs = zip(members, entries, strict=True)
            return tuple(_build(member, entry, f"{where}[{n}]") for n, (member, entry) in enumerate(pairs))
        raise UserError(f"{where}: {value!r} is not {kind}")
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in (bool, int, float, str, Path) and (not isinstance(value, kind) or (kind is int and type(value) is bool)):
        raise UserError(f"{where}: {value!r} is not {kind.__name__}")
    return value


def _build_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in members:
        return None
    errors = []
    for member in members:
        if member is not types.NoneType:
            try:
                return _build(member, value, where)
            except UserError as error:
                errors.append(error)
    raise errors[0]


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Rebuild a config dataclass, nested ones included, from what :func:`to_dict` gave.

    Raises UserError naming an unknown key or choice and its nearest known name, a missing key, or a value of a wrong
    kind.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: {data!r} is not a table of settings")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}'; {nearest(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise UserError(f"{where}: key '{name}' is missing")
    return cls(**{key: _build(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def parse_json(text: str) -> Any:
    """``json.loads`` whose errors are all ValueErrors: it has no text of its own for nesting beyond Python's stack."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError naming the file when it is missing, unreadable or damaged."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {path.parent} the folder you meant?") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct its permissions, or the path") from None
    except ValueError as error:  # bytes that are no UTF-8 and numbers of thousands of digits among them
        raise UserError(f"{path} is damaged ({error}): restore it from a copy") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} does not hold a JSON object: restore it from a copy")
    return data
