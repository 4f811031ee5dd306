"""Dataclasses from TOML and `key=value`, strictly: an unknown key is an error with a hint.

Which values settings may have, as a table: a check, and the settings that it is for.

Lengths of training, in epochs or iterations.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from zopde.errors import InputError

T = TypeVar("T")
Tree = dict[str, Any]


def read_toml(path: Path) -> Tree:
    """A TOML file as nested dicts; what is wrong with it in one line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            "config file", got=f"{path} ({error.strerror})", expected="a readable TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path}", got=f"{error}", expected="valid TOML") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`base` with the settings of `over` on top; a setting that is a table is replaced whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = {**old, **value} if both and old is not None else value
    return merged


def check_agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Require that two sources do not give the same setting two values."""
    for table, settings in one.items():
        theirs = other.get(table)
        for key, value in settings.items():
            if isinstance(theirs, Mapping) and theirs.get(key, value) != value:
                raise InputError(
                    f"setting {table}.{key!s}",
                    got=f"{theirs[key]!r} and {value!r}",
                    expected="one value",
                    remedy="give it in one place",
                )


def choices(file: Path | None, changes: Iterable[str], tables: Mapping[str, Any] | None) -> Tree:
    """What is laid over a preset: a file, over it "table.key=value", over that tables."""
    chosen = merge(read_toml(file) if file else {}, assignments(changes))
    check_agreement(tables or {}, chosen)
    return merge(chosen, tables or {})


def assignments(texts: Iterable[str]) -> Tree:
    """Nested dicts from "table.key=value"; a value that is not TOML is taken as text."""
    tree: Tree = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError("--set", got=repr(text), expected="key=value, such as zo.mu=1e-3")
        parsed = _toml_value(value.strip())
        for part in reversed(key.strip().split(".")):
            parsed = {part: parsed}
        tree = merge(tree, parsed)
    return tree


def build(kind: type[T], tree: Mapping[str, Any], prefix: str = "") -> T:
    """An instance of the dataclass `kind` from nested dicts, every value checked by type."""
    hints = get_type_hints(kind)
    for key in tree:
        if key not in hints:
            raise _unknown(f"{prefix}{key}", kind, prefix)
    values = {key: _value(hints[key], value, f"{prefix}{key}") for key, value in tree.items()}
    return kind(**values)


def as_tree(settings: Any) -> Tree:  # noqa: ANN401 - any dataclass instance
    """Back to nested dicts of plain values."""
    tree: Tree = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = as_tree(value)
        tree[field.name] = list(value) if isinstance(value, tuple) else value
    return tree


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values in which two trees differ."""
    found = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}")
    return found


def dump_toml(tree: Mapping[str, Any], table: str = "") -> str:
    """The TOML text of nested dicts of plain values."""
    plain = [f"{k} = {literal(v)}" for k, v in tree.items() if not isinstance(v, Mapping)]
    lines = ([f"[{table}]"] if table and (plain or not tree) else []) + plain
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            text += ("\n" if text else "") + dump_toml(value, f"{table}.{key}" if table else key)
    return text


def literal(value: Any) -> str:  # noqa: ANN401
    """A plain value as TOML writes it on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # TOML's basic strings escape alike
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k} = {literal(v)}' for k, v in value.items())}}}"
    return repr(value)


def _value(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(name, got=repr(value), expected="a table of settings")
        return build(hint, value, f"{name}.")
    if origin is Literal:
        if value not in get_args(hint):
            raise InputError(name, got=repr(value), expected=f"one of {list(get_args(hint))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(get_args(hint)[0], item, name) for item in items)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(name, got=repr(value), expected="a table")
        return dict(value)
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(hint, UnionType) or type(value) is not hint:
        raise InputError(name, got=repr(value), expected=f"a value of type {hint.__name__}")
    return value


def _unknown(name: str, kind: type, prefix: str) -> InputError:
    known = list(_all_keys(kind, prefix))
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    tail = name.rpartition(".")[2]
    near = near or [k for k in known if k.rpartition(".")[2] == tail]
    hint = f"did you mean {near[0]!r}?" if near else ""
    tables = ", ".join(k for k in known if k.count(".") == prefix.count("."))
    return InputError("setting", got=repr(name), expected=f"one of {tables}", remedy=hint)


def _all_keys(kind: type, prefix: str = "") -> Iterable[str]:
    for key, hint in get_type_hints(kind).items():
        yield f"{prefix}{key}"
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _all_keys(hint, f"{prefix}{key}.")


def _toml_value(text: str) -> Any:  # noqa: ANN401
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


Check = Callable[[str, Any], object]
Legal = Sequence[tuple[Check, Mapping[str, str]]]  # check -> table -> names, a space between


def check_settings(config: object, legal: Legal) -> None:
    """Require legal values; of a setting that is a list, every entry.

    Args:
        config: Dataclass of dataclasses: a table, and in it the setting.
        legal: (check, {table: "name name ..."}); a check takes "table.name" and a value.

    Raises:
        InputError: At the first that is not.
    """
    for check, tables in legal:
        for table, names in tables.items():
            for name in names.split():
                value = getattr(getattr(config, table), name)
                for each in value if isinstance(value, tuple) else (value,):
                    check(f"{table}.{name}", each)


def check_distinct(name: str, given: Sequence[object]) -> None:
    """Require at least one entry, and none twice."""
    if not given or len(set(given)) < len(given):
        raise InputError(name, got=list(given), expected="some, each once")


_FORM = re.compile(r"(\d+) (epoch|iteration)s?")


@dataclass(frozen=True)
class Span:
    """A whole number of epochs or iterations, written "100 epochs" or "600 iterations".

    Args:
        count: How many, >= 0.
        unit: Of what.
    """

    count: int
    unit: Literal["epoch", "iteration"]

    @classmethod
    def parse(cls, name: str, text: object) -> Self:
        """Read "100 epochs" or "600 iterations"; `name` is what an error calls it."""
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(
                name, got=repr(text), expected='a length such as "600 iterations" or "100 epochs"'
            )
        return cls(int(match[1]), "epoch" if match[2] == "epoch" else "iteration")

    def iterations(self, per_epoch: int) -> int:
        """In iterations, given how many of them make an epoch."""
        return self.count * (per_epoch if self.unit == "epoch" else 1)

    def __str__(self) -> str:
        return f"{self.count} {self.unit}s"


def check_length(name: str, text: object) -> None:
    """Require a length of at least 1, in either unit."""
    if Span.parse(name, text).count < 1:
        raise InputError(name, got=repr(text), expected="a length of at least 1")
