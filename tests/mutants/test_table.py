"""The table of mutations holds for the code as it is; `driver.py` breaks the code, and runs the tests."""

from __future__ import annotations

import ast
import re

import pytest

from mutants.driver import ROOT
from mutants.table import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_is_broken_stands_there_once_and_its_test_is_there(mutation: Mutation) -> None:
    assert (ROOT / "sjq" / mutation.file).read_text("utf-8").count(mutation.text) == 1
    assert mutation.instead != mutation.text
    file, name = mutation.test.partition("[")[0].split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_names_are_told_apart() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_those_who_contribute_find_the_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|`]+) \| `([\w/.]+)` \| `(\w+)` in `([\w/.]+)` \|$", text, re.MULTILINE)
    assert rows == [_row(mutation) for mutation in MUTATIONS]


def _row(mutation: Mutation) -> tuple[str, str, str, str]:
    file, name = mutation.test.partition("[")[0].split("::")
    return mutation.name, mutation.file, name, file
