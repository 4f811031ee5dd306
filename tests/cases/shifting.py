"""A solver as a user has it: a function in `mine.py`, and the table that names it."""

STEP = "import numpy as np\n\n\ndef step(u):\n    return u - 0.2 * (u - np.roll(u, 1, -1))\n"
TABLE = """solver = "callable"
function = "mine.py:step"
[grid]
shape = {shape}
extent = {extent}
dt = 0.1
channels = ["u"]
"""
