"""Hostile settings, solver tables, arguments and command lines, drawn with a fixed seed.

What comes out of here is wrong by its type or its size, whatever takes it: the tests that use it
ask for a refusal in one line, and for nothing else.
"""

import datetime
import random
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import typer

SEED = 16
HUGE = 10**400
TEXTS = ["", "x", "0", "1", "false", "no", "off", "None", "nan", "1e-3", "\u00e9\n", "a" * 3000]
FLAGS = [True, False]
FRACTIONS = [0.5, -0.5, 1e-3]
NUMBERS = [-1, -(2**63), 2**63, HUGE, -HUGE, 1e30, 1e300]  # too large, or less than nothing
NOT_NUMBERS = [float("nan"), float("inf"), -float("inf")]
TABLES = [{}, {"a": 1}, {"mu": 1.0}, {"a.b": {"c": [1]}}]
LISTS = [[], [[]], ["x"], [1, "x"], [None], [{}], [True], [1.5], [float("nan")]]
OTHERS = [datetime.date(2020, 1, 1), datetime.time(1, 2, 3), b"x"]
# By type: what is of another, or out of every range.
_NUMERIC = [*NUMBERS, *NOT_NUMBERS]
_MANY = [*TABLES, *LISTS, *OTHERS]
_WRONG = {
    bool: [*TEXTS, 0, 1, 0.0, 1.0, *_NUMERIC, *_MANY],
    int: [*TEXTS, *FLAGS, *FRACTIONS, *_NUMERIC, *_MANY],
    float: [*TEXTS, *FLAGS, *_NUMERIC, *_MANY],
    str: ["\0", *FLAGS, 0, 1, *FRACTIONS, *_NUMERIC, *_MANY],
    dict: [*TEXTS, *FLAGS, 0, 1.5, *_NUMERIC, *LISTS, *OTHERS],
}
_KIND = {Mapping: dict, tuple: list, Sequence: list, Literal: str}


def wrong_for(hint):
    """Values that no setting, argument or key of this type may take."""
    hint = _plain(hint)
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        first, *more = (wrong_for(part) for part in inner if part is not type(None))
        return [value for value in first if all(repr(value) in map(repr, one) for one in more)]
    kind = _KIND.get(origin, origin)
    if kind is list:
        items = [[value] for value in wrong_for(inner[0])]
        return [*TABLES, *items] if items else []
    choices = [text for text in TEXTS if text not in inner] if origin is Literal else []
    return [*choices, *_WRONG.get(kind, [])]


def _plain(hint):
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def some(values, count):
    """At most so many of them, always the same."""
    return random.Random(SEED).sample(values, min(count, len(values)))


def settings(kind, each):
    """(path, value): some wrong values of every setting of a study, and of its tables."""
    for table, settings_of in get_type_hints(kind).items():
        yield from (((table,), value) for value in some(_WRONG[dict], each))
        for name, hint in get_type_hints(settings_of, include_extras=True).items():
            yield from (((table, name), value) for value in some(wrong_for(hint), each))


def nested(path, value):
    """The table of tables that holds a value under ("table", "key")."""
    for key in reversed(path):
        value = {key: value}
    return value


def arguments(function, each, limited=()):
    """(name, value): some wrong values of every argument; a large one is one of `limited` alone."""
    for name, hint in get_type_hints(function).items():
        for value in some(wrong_for(hint), each) if name != "return" else ():
            if name in limited or repr(value).strip("[]") not in map(repr, (2**63, 1e30, 1e300)):
                yield name, value


def as_toml(value):
    """A value as it stands behind "key ="; None where TOML cannot say it."""
    if isinstance(value, dict):
        inner = {f'"{key}"': as_toml(v) for key, v in value.items()}
        pairs = ", ".join(f"{key} = {text}" for key, text in inner.items())
        return None if None in inner.values() else f"{{{pairs}}}"
    if isinstance(value, list):
        inner = [as_toml(v) for v in value]
        return None if None in inner else f"[{', '.join(inner)}]"
    if isinstance(value, str):
        plain = "".join(
            c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in value
        )
        return f'"{plain}"'
    if isinstance(value, int) and abs(value) >= HUGE:
        return ("-" if value < 0 else "") + "9" * 401
    if value is None or isinstance(value, bytes):
        return None
    return str(value).lower() if isinstance(value, bool | float) else str(value)


WORDS = ["", " ", "-1", "0", "x", "nan", "inf", "1e30", "9" * 30, "9" * 5000, "[1]", "{}", "true"]
WORDS += ["\u00e9\n", "a" * 300, "../..", "/proc/self/mem", "/dev/null/x", "-", "--", "\udc80"]


def command_lines(app, bases, each):
    """Words of a command line: every option of every command of `bases` with some wrong values.

    Args:
        app: The typer application.
        bases: "command" or "group command" -> its other words.
        each: Values of an option.
    """
    for command, words in bases.items():
        found = typer.main.get_command(app)
        for name in command.split():
            found = found.commands[name]
        for option in found.params:
            given = [opt for opt in option.opts if opt.startswith("--")]
            # Help ends well, and a flag takes no value.
            for value in some(WORDS, each) if given and given != ["--help"] else ():
                yield [*command.split(), *words, f"{given[0]}={value}"]
                yield [*command.split(), *words, given[0], value]
        for extra in ("--nothing", "-x", "more", "\0"):
            yield [*command.split(), *words, extra, *words]
        yield [*command.split()[:-1], command[:-1]]
