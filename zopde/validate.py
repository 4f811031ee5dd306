"""Argument checks, made once at the public door. Each raises `InputError` in one line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import torch

from zopde.errors import InputError, first_line


def check_positive(name: str, value: float) -> None:
    """Require value > 0 and finite."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise InputError(name, got=repr(value), expected="a finite number > 0")


def check_not_negative(name: str, value: float) -> None:
    """Require value >= 0 and finite."""
    if not (isinstance(value, int | float) and 0 <= value < 2**63):  # NaN is not, either
        raise InputError(name, got=repr(value), expected="a finite number >= 0")


def check_count(name: str, value: int) -> None:
    """Require a whole number >= 1."""
    if not (type(value) is int and value >= 1):
        raise InputError(name, got=repr(value), expected="a whole number >= 1")


def check_share(name: str, value: float) -> None:
    """Require 0 <= value < 1."""
    if not (isinstance(value, int | float) and 0 <= value < 1):
        raise InputError(name, got=repr(value), expected="a number in [0, 1)")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Require one of `choices`; the message names the nearest one."""
    known = list(choices)
    if value not in known:
        near = get_close_matches(str(value), known, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]!r}?" if near else ""
        raise InputError(name, got=repr(value), expected=f"one of {known}", remedy=remedy)


def check_device(name: str, device: str) -> None:
    """Require a device that torch has here."""
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
