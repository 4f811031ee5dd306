"""Hostile settings, solver tables, arguments and command lines, drawn with a fixed seed."""

import dataclasses
import datetime
import random
import types
import typing
from typing import Literal, Union, get_args, get_origin, get_type_hints

SEED = 16
HUGE = 10**400

# By kind of value: what no setting of another kind may be.
TEXTS = ["", "x", "0", "1", "false", "no", "off", "None", "nan", "1e-3", "é\n", "a" * 3000, "\0"]
NUMBERS = [-1, -(2**63), 2**63, HUGE, -HUGE, -0.5, 1e30, 1e300]
NOT_NUMBERS = [float("nan"), float("inf"), -float("inf")]
TABLES = [{}, {"a": 1}, {"mu": 1.0}, {"a.b": {"c": [1]}}]
LISTS = [[], [[]], ["x"], [1, "x"], [None], [{}], [True], [1.5], [float("nan")]]
OTHERS = [datetime.date(2020, 1, 1), datetime.time(1, 2, 3), b"x"]
FLAGS = [True, False]


def _plain(hint):
    return get_args(hint)[0] if get_origin(hint) is typing.Annotated else hint


def wrong_for(hint):
    """Values that nothing of this type may take; `limits` of numbers are those of all settings."""
    hint = _plain(hint)
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        parts = [wrong_for(part) for part in get_args(hint) if part is not type(None)]
        return [value for value in parts[0] if all(_among(value, part) for part in parts[1:])]
    if origin is bool:
        return [*TEXTS, 0, 1, 0.0, 1.0, *NUMBERS, *NOT_NUMBERS, *TABLES, *LISTS, *OTHERS]
    if origin is int:
        return [*TEXTS, *FLAGS, 0.5, 1.0e-3, *NUMBERS, *NOT_NUMBERS, *TABLES, *LISTS, *OTHERS]
    if origin is float:
        return [*TEXTS, *FLAGS, *NUMBERS, *NOT_NUMBERS, *TABLES, *LISTS, *OTHERS]
    if origin is str or origin is Literal:
        more = [text for text in TEXTS if text not in get_args(hint)] if origin is Literal else []
        return [*more, "\0", *FLAGS, 0, 1, 0.5, *NUMBERS, *NOT_NUMBERS, *TABLES, *LISTS, *OTHERS]
    if origin is dict or origin is typing.Mapping or getattr(origin, "__name__", "") == "Mapping":
        return [*TEXTS, *FLAGS, 0, 1.5, *NUMBERS, *NOT_NUMBERS, *LISTS, *OTHERS]
    if origin in (tuple, list) or getattr(origin, "__name__", "") == "Sequence":
        inner = [[value] for value in wrong_for(get_args(hint)[0])]
        return [*TABLES, *inner, *([1, value] for value in OTHERS)]
    return []


def _among(value, values):
    return any(type(value) is type(other) and repr(value) == repr(other) for other in values)


def leaves(kind, prefix=()):
    """(table, ..., key), hint of every setting of a study's dataclass."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(_plain(hint)):
            yield from leaves(_plain(hint), (*prefix, name))
        else:
            yield (*prefix, name), hint


def nested(path, value):
    """{"table": {"key": value}} of ("table", "key")."""
    for key in reversed(path):
        value = {key: value}
    return value


def settings(kind, each):
    """(path, value) of `each` wrong values of every setting of a study."""
    draw = random.Random(SEED)
    for path, hint in leaves(kind):
        values = wrong_for(hint)
        for value in draw.sample(values, min(each, len(values))):
            yield path, value
    for table in get_type_hints(kind):
        for value in draw.sample([*TEXTS, *FLAGS, *NUMBERS, *NOT_NUMBERS, *LISTS, *OTHERS], 4):
            yield (table,), value


def as_toml(value):
    """A value as it stands behind "key = "; None where TOML cannot say it."""
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value
        )
        return f'"{escaped}"'
    if isinstance(value, dict):
        inner = {f'"{key}" = ': as_toml(v) for key, v in value.items()}
        if None in inner.values():
            return None
        return "{" + ", ".join(key + text for key, text in inner.items()) + "}"
    if isinstance(value, list):
        inner = [as_toml(v) for v in value]
        return None if None in inner else "[" + ", ".join(inner) + "]"
    if isinstance(value, int) and abs(value) >= HUGE:
        return ("-" if value < 0 else "") + "9" * 401
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def options(solver, each):
    """(argument, value) of `each` wrong values of every argument of a solver's class."""
    draw = random.Random(SEED)
    for name, hint in get_type_hints(solver.__init__).items():
        values = wrong_for(hint) if name != "return" else []
        for value in draw.sample(values, min(each, len(values))):
            yield name, value
