"""Units as data files spell them, and whether two are one."""

from __future__ import annotations

import math
import re

_TIMES = (
    *((1e-9, "ns nanoseconds"), (1e-6, "us microseconds"), (1e-3, "ms milliseconds")),
    *((1.0, "s sec secs seconds"), (60.0, "min mins minutes"), (3600.0, "h hr hrs hours")),
    (86400.0, "d days"),
)
SECONDS = {w: seconds for seconds, words in _TIMES for w in f"{words} {words[:-1]}".split()}
"""Unit of time -> seconds."""
METRES = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3}
"""Unit of length -> metres."""
METRES |= dict.fromkeys(("metre", "metres", "meter", "meters"), 1.0)
METRES |= dict.fromkeys(("kilometre", "kilometres", "kilometer", "kilometers"), 1e3)
_PASCAL = "kg m-1 s-2"
# Word -> how many, and of what; a base is one of itself.
_WORDS = {word: (size, "s") for word, size in SECONDS.items()}
_WORDS |= {word: (size, "m") for word, size in METRES.items()}
_WORDS |= {"kg": (1.0, "kg"), "g": (1e-3, "kg"), "mg": (1e-6, "kg"), "ug": (1e-9, "kg")}
_WORDS |= dict.fromkeys(("K", "kelvin", "Kelvin"), (1.0, "K"))
_WORDS |= dict.fromkeys(("degC", "°C", "celsius", "Celsius", "degrees_Celsius"), (1.0, "degC"))
_WORDS |= {"Pa": (1.0, _PASCAL), "hPa": (100.0, _PASCAL), "kPa": (1e3, _PASCAL)}
_WORDS |= {"mbar": (100.0, _PASCAL), "bar": (1e5, _PASCAL), "MPa": (1e6, _PASCAL)}
_WORDS |= {"N": (1.0, "kg m s-2"), "J": (1.0, "kg m2 s-2"), "W": (1.0, "kg m2 s-3")}
_WORDS |= {"Hz": (1.0, "s-1"), "1": (1.0, ""), "%": (0.01, "")}
_PART = re.compile(r"([ */.]*)([^\W\d]+|°C|%|1(?!\d))((?:\^?[-+]?\d)?)")
Measure = tuple[float, dict[str, int]]


def same_unit(one: str, other: str) -> bool | None:
    """Whether two units are one, such as "m s-1" and "m/s"; None where a word is not known."""
    if one.split() == other.split():
        return True
    left, right = _measure(one), _measure(other)
    if left is None or right is None:
        return None
    return left[1] == right[1] and math.isclose(left[0], right[0])


def is_share(unit: str) -> bool:
    """Whether a unit is one of numbers alone, such as "1", "%" or "g/kg"."""
    measure = _measure(unit)
    return measure is not None and not measure[1]


def _measure(text: str) -> Measure | None:
    """How many, and the powers of the bases; None where a word is not known."""
    text = text.strip().replace("**", "^")
    parts, size, powers = _PART.findall(text), 1.0, dict[str, int]()
    if "".join(map("".join, parts)) != text:
        return None
    for mark, word, power in parts:
        count = int(power.lstrip("^") or 1) * (-1 if "/" in mark else 1)
        factor, of = _WORDS.get(word, (0.0, ""))
        inside = (1.0, {word: 1}) if of == word else _measure(of)
        if not factor or inside is None:
            return None
        size *= factor**count
        for base, of_base in inside[1].items():
            powers[base] = powers.get(base, 0) + count * of_base
    return size, {base: power for base, power in powers.items() if power}
