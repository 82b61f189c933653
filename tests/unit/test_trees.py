"""Folders that are deeper than paths, descriptors and recursion go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sjq import trees

DEEP = 3000
NAME = "a-folder"


def deep(top: Path, levels: int = DEEP) -> Path:
    """Make folders one in the other, with a file of 10 bytes and a link in each hundredth."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for level in range(levels):
        if level % 100 == 0:
            file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
            os.write(file, b"0123456789")
            os.close(file)
            os.symlink("/", "link", dir_fd=here)
        os.mkdir(NAME, dir_fd=here)
        below = os.open(NAME, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return top


def test_what_is_deeper_than_a_path_may_be_long_is_measured_and_removed(tmp_path: Path) -> None:
    top = deep(tmp_path / "deep")
    assert sum(trees.sizes(top)) == 10 * DEEP // 100
    trees.remove(top)
    assert list(tmp_path.iterdir()) == []


def test_each_folder_comes_behind_what_is_in_it(tmp_path: Path) -> None:
    for path in ("a/b/c", "a/d", "e"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "file").touch()
    found = [name for _, name, _ in trees.walk(tmp_path)]
    assert sorted(found) == ["a", "b", "c", "d", "e", "file", "file", "file"]
    assert found.index("c") < found.index("b") < found.index("a") > found.index("d")


def test_what_links_lead_to_is_neither_measured_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"x" * 100)
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "kept")
    assert sum(trees.sizes(tmp_path / "top")) == 0
    trees.remove(tmp_path / "top")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    (tmp_path / "link").symlink_to("kept")
    assert sum(trees.sizes(tmp_path / "link")) == 0
    trees.remove(tmp_path / "link")
    assert (tmp_path / "kept" / "file").exists()


def test_what_is_no_folder_has_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "pipe", "none"):
        assert list(trees.walk(tmp_path / name)) == []
        trees.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_moved_meanwhile_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "top" / "sub").mkdir(parents=True)
    (tmp_path / "top" / "sub" / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    walk = trees.walk(tmp_path / "top")
    assert next(walk)[1:] == ("file", False)
    (tmp_path / "top" / "sub").rename(tmp_path / "elsewhere" / "sub")
    with pytest.raises(OSError, match="moved elsewhere") as error:
        next(walk)
    assert error.value.errno == errno.ESTALE


def test_what_another_removes_meanwhile_is_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("file", "other"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    walk = trees.walk(tmp_path)
    next(walk)
    (tmp_path / "sub").rmdir()
    assert [name for _, name, is_folder in walk if is_folder] == ["sub"]
