"""The block of a script is found where uv finds it."""

from __future__ import annotations

import pytest

from sjq.executors.pep723 import block


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"", None),
        (b"import six\n", None),
        (b"# /// script\n# a = 1\n# ///\n", b"a = 1\n"),
        (b"# /// script\n# ///", b""),
        (b"#!/usr/bin/env python\n# /// script\n# a = 1\n#\n# b = 2\n# ///\nx", b"a = 1\n\nb = 2\n"),
        (b"# /// script\r\n# a = 1\r\n# ///\r\nimport six\r\n", b"a = 1\n"),
        (b"# /// other\n# a = 1\n# ///\n", None),
        # uv looks no further than the first mention, and neither do we
        (b'"""\n  # /// script\n"""\n# /// script\n# a = 1\n# ///\n', None),
        (b"# /// script  \n# a = 1\n# ///\n", None),
        (b"\xef\xbb\xbf# /// script\n# a = 1\n# ///\n", None),
    ],
)
def test_block(source: bytes, expected: bytes | None) -> None:
    assert block(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        b"# /// script\n# a = 1\n",
        b"# /// script\n# a = 1\n# ///  \n",
        b"# /// script\n#a = 1\n# ///\n",
        b"# /// script\n# ///\nx\n# /// script\n# ///\n",
    ],
)
def test_a_block_that_uv_will_refuse_is_the_whole_source(source: bytes) -> None:
    assert block(source) == source
