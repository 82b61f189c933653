"""The block in which a script says what it needs (PEP 723), found where uv finds it."""

from __future__ import annotations

import re

_OPENING = b"# /// script"
_BLOCK = re.compile(rb"(?m)^# /// script$\s(?P<content>(?:^#(?:| .*)$\s)*)^# ///$")


def block(source: bytes) -> bytes | None:
    """Return the TOML of the script's block, or None where uv sees a script without one.

    The whole source comes back where uv will refuse the block (it is unclosed, or not the only one): what
    is wrong with it is for uv to say, and any edit may be the one that mends it.
    """
    source = source.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    start = source.find(_OPENING)
    if start < 0:
        return None
    # uv looks at the first mention alone, and takes it for a block only if it is a line of its own; the
    # reference expression would find a later one, in a script that `uv run` runs without any.
    before, line = source[:start], source[start:].split(b"\n", 1)[0]
    if line != _OPENING or (before and not before.endswith(b"\n")):
        return None
    found = list(_BLOCK.finditer(source))
    if len(found) != 1:
        return source
    return b"".join(line[2:] or b"\n" for line in found[0]["content"].splitlines(keepends=True))
