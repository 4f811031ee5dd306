"""Argument checks, made once at the public door. Each raises `InputError` in one line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache, wraps
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import nn

from zopde.errors import InputError, first_line

MOST_SECONDS = 10**6  # of a wait: what every system call takes
F = TypeVar("F", bound=Callable[..., Any])
_hints = cache(get_type_hints)  # at the first call: then all that annotations name is there
_ARGS, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def check_positive(name: str, value: float, most: float = sys.float_info.max) -> None:
    """Require 0 < value <= most, and finite."""
    if not (_is_number(value) and 0 < value <= most):  # NaN is not, either
        limit = "" if most == sys.float_info.max else f", at most {most:g}"
        raise InputError(name, got=repr(value), expected=f"a finite number > 0{limit}")


def check_not_negative(name: str, value: float) -> None:
    """Require value >= 0 and finite."""
    if not (_is_number(value) and 0 <= value < 2**63):
        raise InputError(name, got=repr(value), expected="a finite number >= 0")


def check_count(name: str, value: int, most: int = 2**63 - 1) -> None:
    """Require a whole number >= 1, at most `most`."""
    if not (type(value) is int and 1 <= value <= most):
        limit = "" if most == 2**63 - 1 else f", at most {most:,}"
        raise InputError(name, got=repr(value), expected=f"a whole number >= 1{limit}")


def check_share(name: str, value: float) -> None:
    """Require 0 <= value < 1."""
    if not (_is_number(value) and 0 <= value < 1):
        raise InputError(name, got=repr(value), expected="a number in [0, 1)")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Require one of `choices`; the message names the nearest one."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        remedy = nearest(value, known)
        raise InputError(name, got=repr(value), expected=f"one of {known}", remedy=remedy)


def nearest(value: object, known: Iterable[str]) -> str:
    """A question for the remedy of an error: which of the known words was meant."""
    near = get_close_matches(str(value), list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else ""


def check_type(name: str, value: object, hint: Any) -> None:  # noqa: ANN401 - any annotation
    """Require what an annotation says; a class that has no plain values takes any."""
    if get_origin(hint) is Literal:
        check_choice(name, cast(str, value), get_args(hint))
    if not _is_of(value, hint):
        raise InputError(name, got=repr(value), expected=_in_words(hint))


def checked(function: F) -> F:
    """Let a function require of its arguments what their annotations say; see `check_type`."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        hints = _hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if signature.parameters[name].kind not in (_ARGS, _KEYWORDS):
                check_type(name, value, hints.get(name, Any))
        return function(*args, **kwargs)

    return cast(F, call)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda v: type(v) is bool),
    int: ("a whole number", lambda v: isinstance(v, Integral) and _is_number(v) and abs(v) < 2**63),
    float: ("a finite number", lambda v: _is_number(v) and abs(v) <= sys.float_info.max),
    str: ("text", lambda v: isinstance(v, str | PathLike) and "\0" not in str(v)),
    Path: ("a path", lambda v: isinstance(v, str | PathLike)),
    Callable: ("a function", callable),
}


def _is_of(value: Any, hint: Any) -> bool:  # noqa: ANN401
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in _PLAIN:
        return _PLAIN[origin][1](value)
    if origin in (Union, UnionType):
        return any(_is_of(value, part) for part in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = value.values() if isinstance(value, Mapping) else [value]
        return isinstance(value, Mapping) and all(_is_of(v, h) for h in inner[1:] for v in values)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        many = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
        items = value if isinstance(value, list | tuple) else ()  # others may be read but once
        return many and all(_is_of(v, part) for part in inner[:1] for v in items)
    exact = origin in (nn.Module, torch.Tensor, torch.Generator, NoneType)
    return isinstance(value, origin) if exact else True


def _in_words(hint: Any) -> str:  # noqa: ANN401
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in _PLAIN:
        return _PLAIN[origin][0]
    if origin in (Union, UnionType):  # no file can hold None
        parts = [part for part in inner if part is not NoneType]
        return " or ".join(dict.fromkeys(map(_in_words, parts)))
    if origin is Literal:
        return f"one of {list(inner)}"
    if issubclass(origin, Mapping):
        return "a table"
    return f"a list of such as {_in_words(inner[0])}" if inner else "another type"


def check_device(name: str, device: str) -> None:
    """Require a device that torch has here."""
    here, found = ["cpu", "cpu:0"], torch.accelerator.current_accelerator()
    if found is not None and (count := torch.accelerator.device_count()):
        here += [found.type, *(f"{found.type}:{number}" for number in range(count))]
    if device not in here:
        expected = f"a device that torch has here: {', '.join(here)}"
        raise InputError(name, got=repr(device), expected=expected)
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        got = f"{device!r} ({first_line(error)})"
        raise InputError(name, got=got, expected="a device that torch has here") from error


def check_folder_writable(name: str, folder: Path) -> None:
    """Require a folder that exists, or can be made, and takes new files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".zopde-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        got, remedy = str(folder), f"{error.strerror}"
        raise InputError(name, got=got, expected="a writable folder", remedy=remedy) from error


def check_new_file(name: str, path: Path, overwrite: bool) -> None:
    """Require that `path` can be written without losing anything."""
    if path.exists() and not (overwrite and path.is_file()):
        remedy = "add --overwrite" if path.is_file() else ""
        raise InputError(name, got=f"{path}, which exists", expected="a new file", remedy=remedy)
    check_folder_writable(f"folder of {name}", path.parent)
