"""What `import sjq` gives to programs, tests and scripts, in whatever order they ask."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sjq


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_every_public_name_is_there() -> None:
    for name in sjq.__all__:
        assert getattr(sjq, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        sjq.nope  # noqa: B018 - the asking is the test


def test_importing_sjq_imports_none_of_its_rooms() -> None:
    assert run("import sjq, sys; print([n for n in sys.modules if n.startswith('sjq.') or n == 'msgspec'])") == "[]"


@pytest.mark.parametrize("first", ["Client", "Job", "JobEvent"])
def test_a_name_means_the_same_whatever_was_asked_for_before(first: str) -> None:
    assert run(f"import sjq; sjq.{first}; print(sjq.job(lambda data: data) is not None)") == "True"
