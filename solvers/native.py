"""The `step` of a shared library: called here, or, run as a program, over stdin and stdout.

As a program it speaks the protocol of `zopde.solvers.pipe`. It needs nothing but Python,
so that it starts in a moment.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import struct
import sys
from array import array
from collections.abc import Callable, Sequence

NUMBER = 8  # bytes
Call = Callable[[bytearray, bytes], None]


class StatusError(Exception):
    """The library's function returned a code other than 0."""


def bind(
    library: str, symbol: str, sizes: Sequence[int], passed: str, status: bool, dtype: str
) -> Call:
    """The function of a library, ready to overwrite a state; without forcing, it takes none.

    States are float64 here; the function sees them in its own `dtype`.

    Raises:
        OSError: If the library does not load.
        AttributeError: If it has no such function.
    """
    function = ctypes.CDLL(library)[symbol]
    function.restype = ctypes.c_int if status else None
    numbers = [] if passed == "none" else [ctypes.c_int(size) for size in sizes]
    extra = [ctypes.byref(number) for number in numbers] if passed == "reference" else numbers

    def own(numbers: bytes | bytearray) -> array[float]:
        return array("f" if dtype == "float32" else "d", array("d", bytes(numbers)))

    def call(state: bytearray, forcing: bytes) -> None:
        given = [own(numbers) for numbers in (state, forcing) if numbers]
        code = function(*(ctypes.c_void_p(values.buffer_info()[0]) for values in given), *extra)
        state[:] = array("d", given[0]).tobytes()
        if status and code != 0:
            raise StatusError(f"{symbol} returned {code}")

    return call


def main() -> None:
    """Answer until stdin ends; the arguments of `bind` come as JSON, "check" only binds."""
    settings = json.loads(sys.argv[1])
    try:
        call = bind(**settings)
    except (OSError, AttributeError) as error:
        sys.exit(str(error))
    if sys.argv[2:] == ["check"]:
        return
    # What the library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    split = NUMBER * math.prod(settings["sizes"])
    while head := sys.stdin.buffer.read(4):
        values = sys.stdin.buffer.read(NUMBER * struct.unpack("<i", head)[0])
        state = bytearray(values[:split])
        try:
            call(state, values[split:])
        except StatusError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            state = bytearray()
        answers.write(struct.pack("<i", len(state) // NUMBER) + state)
        answers.flush()


if __name__ == "__main__":
    main()
