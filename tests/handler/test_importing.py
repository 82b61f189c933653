"""What `import sjq` gives a script, and what it costs."""

from __future__ import annotations

import pytest

import sjq.handler as handlers

from .project import Project

# `__future__` is three assignments long; whatever else a handler needs is imported when it runs.
ALLOWED = {"__future__", "sjq"}


def test_it_imports_nothing_at_first(project: Project) -> None:
    count = "import sys; before = set(sys.modules); import sjq; print(*sorted(set(sys.modules) - before))"
    assert set(project.start("-c", count).stdout.split()) <= ALLOWED


def test_it_works_without_site_packages_and_in_a_read_only_place(project: Project) -> None:
    project.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    run = project.start("-S", "-B", "-c", "import sjq; print(sjq.job, sjq.Next)")
    assert (run.code, run.stderr) == (0, "")


@pytest.mark.parametrize("name", ["Batch"])
def test_what_comes_later_is_not_there_and_says_so(name: str) -> None:
    with pytest.raises(ImportError, match=rf"sjq\.{name} is not built yet"):
        getattr(handlers, name)


def test_what_never_was_there_is_a_plain_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'jobs'"):
        handlers.jobs  # noqa: B018
