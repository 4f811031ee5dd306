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
from collections.abc import Callable, Sequence

NUMBER = 8  # bytes
Call = Callable[[bytearray, bytes], None]


class StatusError(Exception):
    """The library's function returned a code other than 0."""


def bind(library: str, symbol: str, sizes: Sequence[int], passed: str, status: bool) -> Call:
    """The function of a library, ready to overwrite a state; without forcing, it takes none.

    Raises:
        OSError: If the library does not load.
        AttributeError: If it has no such function.
    """
    function = ctypes.CDLL(library)[symbol]
    function.restype = ctypes.c_int if status else None
    numbers = [] if passed == "none" else [ctypes.c_int(size) for size in sizes]
    extra = [ctypes.byref(number) for number in numbers] if passed == "reference" else numbers

    def call(state: bytearray, forcing: bytes) -> None:
        values = (ctypes.c_double * (len(state) // NUMBER)).from_buffer(state)
        driven = [ctypes.create_string_buffer(forcing, len(forcing))] if forcing else []
        code = function(values, *driven, *extra)
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
