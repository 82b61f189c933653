"""A command whose wall clock is set from outside: `python jumping.py FILE worker ...`; FILE holds seconds to add."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sjq import clock
from sjq.cli import main

if __name__ == "__main__":
    offset = Path(sys.argv[1])
    sys.argv[1:2] = []
    clock.now = lambda: time.time() + float(offset.read_text() or 0)
    main()
