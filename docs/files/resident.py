"""A program that stays alive: int32 n and n float64 come in, int32 m and m float64 go out."""

import struct
import sys

import numpy as np

while head := sys.stdin.buffer.read(4):
    (count,) = struct.unpack("<i", head)
    u = np.frombuffer(sys.stdin.buffer.read(8 * count), "<f8").reshape(1, 16, 16)
    change = 0.6 * (u - np.roll(u, 1, axis=1)) + 1.0 * (u - np.roll(u, 1, axis=2))
    answer = (u - 0.2 * change).astype("<f8")
    sys.stdout.buffer.write(struct.pack("<i", answer.size) + answer.tobytes())
    sys.stdout.buffer.flush()
