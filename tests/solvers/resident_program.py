"""A resident program for tests: doubles a state, adds the forcing; first number 13 misbehaves."""

import os
import struct
import sys
import time
from array import array

HOW = sys.argv[1] if len(sys.argv) > 1 else ""


def misbehave():
    if HOW == "die":
        sys.stderr.write("first line\nno memory left\n")
        sys.exit(3)
    if HOW == "crash":
        os.abort()
    if HOW == "hang":
        time.sleep(600)
    if HOW == "text":
        os.write(1, b"Time = 0.1\n" * 20)
    if HOW == "half":
        os.write(1, struct.pack("<id", 8, 1.0))
        sys.exit(0)
    if HOW == "short":
        os.write(1, struct.pack("<id", 1, 1.0))
    if HOW == "decline":
        sys.stderr.write("did not converge\n")
        sys.stderr.flush()
        os.write(1, struct.pack("<i", 0))
        return True
    return False


while head := sys.stdin.buffer.read(4):
    count = struct.unpack("<i", head)[0]
    values = array("d", sys.stdin.buffer.read(8 * count))
    size = int(os.environ.get("SIZE", count))
    if values[0] == 13.0 and misbehave():
        continue
    if HOW == "chat":
        sys.stderr.write("x" * 100000)
        sys.stderr.flush()
    state, forcing = values[:size], values[size:] or [0.0] * size
    answer = array("d", [2 * u + f for u, f in zip(state, forcing, strict=True)])
    if values[0] == 13.0 and HOW == "nan":
        answer[1] = float("nan")
    if HOW == "order":
        answer = state
    if HOW == "pid":
        answer = array("d", [float(os.getpid())] * size)
    message = struct.pack("<i", size) + answer.tobytes()
    while message:
        message = message[os.write(1, message) :]
    if HOW == "unasked":
        os.write(1, b"done\n")
