"""Which values settings may have, as a table: a check, and the settings that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zopde.errors import InputError

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
