"""Settings from TOML and `key=value`, strictly: a limit stands at its field, a typo is an error."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from zopde.errors import InputError
from zopde.files import read_toml
from zopde.studies import limits
from zopde.studies.workers import Workers
from zopde.validate import check_choice, check_device, check_type, nearest

T = TypeVar("T")
Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """The images: `path` as `load_images` takes it, "" for the embedded digits.

    In training an image is moved by up to `pad` pixels, zeros coming in, and mirrored half of
    the time if `flip`. Pixels are standardised by the training images' mean and deviation.
    """

    path: limits.Text = ""
    pad: limits.Pixels = 4
    flip: bool = True


@dataclasses.dataclass(frozen=True)
class SeedSettings:
    """Which seeds, where, and the seconds between two checkpoints: what every run has."""

    seeds: tuple[limits.Seed, ...] = (0,)  # Each trains every label once.
    device: limits.Text = "cpu"  # Where torch computes.
    checkpoint_seconds: limits.Positive = 30.0  # Time from one checkpoint to the next.
    hours: limits.NotNegative = 0.0  # After so many a start pauses, for --resume; 0 is any time.

    def __post_init__(self) -> None:
        check_names("run.seeds", self.seeds)
        check_device("run.device", self.device)


@dataclasses.dataclass(frozen=True)
class ProbeSettings(SeedSettings):
    """And who answers the probes of weights; see `Workers`."""

    workers: limits.Processes = 0  # Processes that evaluate probes; 0 is this one alone.
    threads: limits.Size = 1  # Each worker has so many.
    executor: limits.Text = ""  # "", "dask" or "dask://host:port" evaluates probes.
    scratch: limits.Text = ""  # A folder that all machines share.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.probed_by()

    def probed_by(self) -> Workers:
        """Who evaluates probes."""
        return Workers(self.workers, self.threads, self.executor, self.scratch)


def iterations_in(length: str, per_epoch: int) -> int:
    """A length such as "100 epochs" in iterations, given how many of them make an epoch."""
    count, unit = length.split()
    return int(count) * (per_epoch if unit.startswith("epoch") else 1)


def build(kind: type[T], tree: Mapping[str, Any]) -> T:
    """An instance of the dataclass `kind` from nested dicts, every key and value checked.

    The fields say their types and, by `msgspec.Meta`, their limits. An attribute `RENAMED` holds
    pairs: an old key, and the new one. One value stands for a list of one.
    """
    renamed: Mapping[str, str] = dict(getattr(kind, "RENAMED", ()))
    check_type("settings", tree, Mapping[str, Any])
    try:
        return msgspec.convert(_known(kind, tree, renamed), kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):  # by a `__post_init__`
            raise error.__cause__ from None
        raise _in_our_words(error, kind, tree) from None


def load(
    kind: type[T],
    presets: Iterable[str],
    preset: str,
    file: Path | None,
    changes: Iterable[str],
    tables: Mapping[str, Any] | None,
) -> T:
    """Settings of one of the `presets` beside the module of `kind`, and `choices` over it."""
    check_choice("preset", preset, presets)
    folder = resources.files(kind.__module__.rpartition(".")[0]) / "presets"
    tree = read_toml(Path(str(folder / f"{preset}.toml")))
    return build(kind, merge(tree, choices(file, changes, tables)))


def choices(file: Path | None, changes: Iterable[str], tables: Mapping[str, Any] | None) -> Tree:
    """What is laid over a preset: a file, over it "table.key=value", over that tables."""
    given = read_toml(file) if file is not None else {}
    given.pop("study", None)  # a run's own record may be given, so that the run repeats
    check_type("changes", changes, Iterable[str])
    check_type("tables", tables or {}, Mapping[str, Mapping[str, Any]])
    chosen = merge(given, assignments(changes))
    merged = merge(chosen, tables or {})
    _check_agreement(tables or {}, chosen)
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`base` with the settings of `over` on top; a setting that is a table is replaced whole."""

    def over_it(old: Any, new: Any, name: str) -> Any:  # noqa: ANN401
        if isinstance(old, Mapping) != isinstance(new, Mapping):
            value = new if isinstance(old, Mapping) else old
            raise InputError(f"setting {name}", got=repr(value), expected="a table of settings")
        return new

    merged = dict(base)
    for table, new in over.items():
        old = merged.get(table, new)
        merged[table] = over_it(old, new, str(table))
        if isinstance(new, Mapping):
            known = {key: over_it(old.get(key, v), v, f"{table}.{key}") for key, v in new.items()}
            merged[table] = {**old, **known}
    return merged


def assignments(texts: Iterable[str]) -> Tree:
    """Nested dicts from "table.key=value"; a value that is not TOML is taken as text."""
    tree: Tree = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError("--set", got=repr(text), expected="key=value, such as zo.mu=1e-3")
        *tables, name = key.strip().split(".")
        inner = tree
        for table in tables:
            inner = inner.setdefault(table, {})
            if not isinstance(inner, dict):
                raise InputError("--set", got=repr(text), expected=f"{table} to be a table")
        parsed, old = _toml_value(value.strip()), inner.get(name)
        if isinstance(old, dict) and not isinstance(parsed, dict):
            raise InputError("--set", got=repr(text), expected=f"{name} to be a table")
        if not tables and isinstance(old, dict):
            parsed = {**old, **parsed}
        inner[name] = parsed
    return tree


def as_tree(values: Any) -> Tree:  # noqa: ANN401 - any dataclass instance
    """Back to nested dicts of plain values."""

    def table(fields: Iterable[tuple[str, Any]]) -> Tree:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields}

    return dataclasses.asdict(values, dict_factory=table)


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the values in which two trees differ."""
    names = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            names += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            names.append(f"{prefix}{key}")
    return names


def literal(value: Any) -> str:  # noqa: ANN401
    """A plain value as TOML writes it on one line, for `--set`."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # TOML's basic strings escape alike
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k} = {literal(v)}' for k, v in value.items())}}}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def check_names(name: str, given: Sequence[Any], known: Iterable[str] | None = None) -> None:
    """Require at least one entry, none twice, and of names that all are known."""
    for one in given if known is not None else ():
        check_choice(name, one, known or ())
    if not given or len(set(given)) < len(given):
        raise InputError(name, got=list(given), expected="some, each once")


def check_rates(given: Mapping[str, float], known: Iterable[str], methods: Iterable[str]) -> None:
    """Require of `training.lr` names that are known, and a learning rate for each of `methods`."""
    for method in given:
        check_choice("training.lr", method, known)
    for method in methods:
        if method not in given:
            expected = "a learning rate for every method"
            raise InputError(f"training.lr.{method}", got="none", expected=expected)


def check_fields(values: Any) -> None:  # noqa: ANN401 - any dataclass instance
    """Require of settings that were not read but made in Python what `build` requires."""
    for name, hint in get_type_hints(type(values), include_extras=True).items():
        value = getattr(values, name)
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            raise _wrong(name, value, hint) from None


def _check_agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Require that two sources do not give the same setting two values."""
    for table, settings in one.items():
        theirs = other.get(table)
        for key, value in settings.items():
            if isinstance(theirs, Mapping) and theirs.get(key, value) != value:
                name, got = f"setting {table}.{key!s}", f"{theirs[key]!r} and {value!r}"
                raise InputError(name, got=got, expected="one value", remedy="give it in one place")


def _known(
    kind: type, tree: Mapping[str, Any], renamed: Mapping[str, str], prefix: str = ""
) -> Tree:
    """The same tree, if every key is known; where a list is wanted, one value becomes one."""
    known: Tree = {}
    hints = get_type_hints(kind)
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in renamed:
            raise InputError("setting", got=repr(name), expected=f"its new name {renamed[name]!r}")
        if key not in hints:
            raise _unknown(name, kind, prefix)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[key]):
            known[key] = _known(hints[key], value, renamed, f"{name}.")
        elif get_origin(hints[key]) is tuple and not isinstance(value, list | tuple):
            known[key] = [value]
        else:
            known[key] = value
    return known


def _in_our_words(error: msgspec.ValidationError, kind: type, tree: Any) -> InputError:  # noqa: ANN401
    """Which setting is wrong, what it is and what it should be."""
    path = re.search(r"`\$\.?([^`]*)`$", str(error))
    hint, setting = kind, ""
    for name in path[1].replace("[...]", "").split(".") if path else ():
        key, _, index = name.rstrip("]").partition("[")
        setting = f"{setting}.{key}".removeprefix(".")
        hint, tree = get_type_hints(hint, include_extras=True)[key], tree[key]
        if get_origin(hint) is tuple and index:
            hint = get_args(hint)[0]
            tree = tree[int(index)] if isinstance(tree, list | tuple) else tree
    return _wrong(setting, tree, hint)


def _wrong(setting: str, value: object, hint: Any) -> InputError:  # noqa: ANN401
    remedy = nearest(value, get_args(hint)) if get_origin(hint) is Literal else ""
    return InputError(setting, got=repr(value), expected=_expected(hint, value), remedy=remedy)


def _expected(hint: Any, value: object) -> str:  # noqa: ANN401
    limits = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
    plain = get_args(hint)[0] if limits else hint
    right_type = value is None or type(value) is plain or (plain is float and type(value) is int)
    right_type |= get_origin(plain) is Union
    if limits and right_type and limits[0].description:
        return limits[0].description
    if get_origin(plain) is Literal:
        return f"one of {list(get_args(plain))}"
    if dataclasses.is_dataclass(plain):
        return "a table of settings"
    if get_origin(plain) in (dict, tuple):
        many, inner = ("table", 1) if get_origin(plain) is dict else ("list", 0)
        of_values = get_args(plain)[inner]
        return f"a {many}" + ("" if of_values is Any else f", each {_expected(of_values, None)}")
    return f"a value of type {getattr(plain, '__name__', plain)}"


def _unknown(name: str, kind: type, prefix: str) -> InputError:
    known = list(_all_keys(kind, prefix))
    tail = name.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == tail][:1]
    hint = nearest(name, known) or nearest("".join(same), same)
    tables = ", ".join(k for k in known if k.count(".") == prefix.count("."))
    return InputError("setting", got=repr(name), expected=f"one of {tables}", remedy=hint)


def _all_keys(kind: type, prefix: str = "") -> Iterator[str]:
    for key, hint in get_type_hints(kind).items():
        yield f"{prefix}{key}"
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _all_keys(hint, f"{prefix}{key}.")


def _toml_value(text: str) -> Any:  # noqa: ANN401
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # the first also for a number of 5,000 digits
        return text
    return parsed["value"] if len(parsed) == 1 else text
