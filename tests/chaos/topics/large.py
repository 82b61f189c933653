"""Gives back what it is given, in an output of so many bytes, or prints one line of so many: its data says which.

The data is [kind, bytes, padding]: only as much of it is read as is needed.
"""

import os
import sys

from _note import ATTEMPT, note

BLOCK = b"x" * (1 << 20)
note("start")
with open(sys.argv[2]) as file:
    kind, size = file.read(80).strip("[]").split(",")[:2]
with open(sys.argv[4], "wb") as output:
    output.write(b'{"data": {"attempt": %d, "padding": "' % ATTEMPT)
    if kind.strip('"') == "output":
        left = int(size)
        while left > 0:
            left -= output.write(BLOCK[:left])
    output.write(b'"}}')
if kind.strip('"') == "line":
    left = int(size)
    while left > 0:
        left -= os.write(1, BLOCK[:left])
note("finish")
