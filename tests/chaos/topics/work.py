"""Works for a while, and hands over to as many children as it is told: its data is [milliseconds, children]."""

import sys
import time

from _note import ATTEMPT, note

note("start")
open("running", "w").close()
with open(sys.argv[2]) as file:
    milliseconds, children = map(int, file.read().strip("[]\n").split(","))
time.sleep(milliseconds / 1000)
following = ", ".join(f'{{"topic": "piece", "data": [{milliseconds // 10}, 0]}}' for _ in range(children))
with open(sys.argv[4], "w") as file:
    file.write(f'{{"data": {{"attempt": {ATTEMPT}}}, "next": [{following}]}}')
note("finish")
