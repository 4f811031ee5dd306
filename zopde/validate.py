"""Argument checks, made once at the public door. Each raises `InputError` in one line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, ValuesView
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
    words, suits = _kind(hint)
    if not suits(value):
        array = hasattr(value, "__array__")  # thousands of numbers
        got, remedy = (
            (type(value).__name__, "torch.as_tensor makes one") if array else (repr(value), "")
        )
        raise InputError(name, got=got, expected=words, remedy=remedy)


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


Kind = tuple[str, Callable[[Any], bool]]  # in words, and whether a value is of it
_PLAIN: dict[Any, Kind] = {
    bool: ("true or false", lambda v: type(v) is bool),
    int: (
        "a whole number",
        lambda v: isinstance(v, Integral) and _is_number(v) and abs(int(v)) < 2**63,
    ),
    float: ("a finite number", lambda v: _is_number(v) and abs(v) <= sys.float_info.max),
    str: ("text", lambda v: isinstance(v, str | PathLike) and "\0" not in str(v)),
    Path: ("a path", lambda v: isinstance(v, str | PathLike)),
    Callable: ("a function", callable),
    NoneType: ("", lambda v: v is None),  # no file can hold it
    nn.Module: ("a torch.nn.Module", lambda v: isinstance(v, nn.Module)),
    torch.Tensor: ("a tensor", torch.is_tensor),
    torch.Generator: ("a torch.Generator", lambda v: isinstance(v, torch.Generator)),
}


def _kind(hint: Any) -> Kind:  # noqa: ANN401
    origin = get_origin(hint) or hint
    if origin in _PLAIN:
        return _PLAIN[origin]
    inner = [_kind(part) for part in get_args(hint)]
    kind: Kind = "another type", lambda _: True
    if origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(word for word, _ in inner if word))
        kind = words, lambda v: any(suits(v) for _, suits in inner)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        kind = "a table", lambda v: isinstance(v, Mapping) and _all(inner[1:], v.values())
    elif isinstance(origin, type) and issubclass(origin, Iterable):
        words = f"a list, each {inner[0][0]}" if inner else "a list"
        kind = words, lambda v: _is_list(v) and _all(inner[:1], v)
    return kind


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _all(kinds: Iterable[Kind], values: Iterable[Any]) -> bool:
    """Whether all are of the kinds; what may be read but once is not looked into."""
    once = not isinstance(values, list | tuple | ValuesView)
    return once or all(suits(value) for _, suits in kinds for value in values)


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
