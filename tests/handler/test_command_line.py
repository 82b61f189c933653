"""The command line of a handler script, its files and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from .project import FILES, INPUT, OUTPUT, Project

ECHO = "import sjq\n@sjq.job\ndef resize(data, attachment):\n    return [data, attachment]\n"


def test_without_arguments_it_says_how_it_is_run(project: Project) -> None:
    project.write(ECHO)
    run = project.start("topics/resize.py")
    assert run.code == 2
    assert run.stderr.startswith("usage: resize.py --input FILE --output FILE [--attachment FILE]\n")


def test_options_may_have_an_equals_sign(here: Project) -> None:
    here.run(ECHO, {"w": 1})
    here.output_file.unlink()
    run = here.start("topics/resize.py", f"--output={OUTPUT}", f"--input={INPUT}", f"--attachment={INPUT}")
    assert run.output == {"data": [{"w": 1}, INPUT]}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--input", INPUT], "--output missing"),
        (["--output", OUTPUT], "--input missing"),
        ([*FILES, "--verbose"], "unknown argument '--verbose'"),
        ([*FILES, "more"], "unknown argument 'more'"),
        ([*FILES, "--input", INPUT], "--input is there twice"),
        (["--input", "--output", OUTPUT], "--input needs the name of a file"),
        ([*FILES, "--attachment"], "--attachment needs the name of a file"),
        ([*FILES, "--attachment="], "--attachment needs the name of a file"),
        (["--help"], "unknown argument '--help'"),
    ],
)
def test_anything_else_is_wrong_usage(here: Project, arguments: list[str], error: str) -> None:
    here.write(ECHO)
    run = here.start("topics/resize.py", *arguments)
    assert (run.code, run.output) == (2, None)
    assert run.error.endswith(error)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, f"error: the input {INPUT} cannot be read: No such file or directory"),
        (b"{", f"error: the input {INPUT} is not JSON in UTF-8: Expecting property name"),
        (b'"\xff"', f"error: the input {INPUT} is not JSON in UTF-8: 'utf-8' codec"),
        (b"[NaN]", f"error: the input {INPUT} is not JSON in UTF-8: JSON has no NaN"),
        (b"[" * 200_000, f"error: the input {INPUT} is nested too deeply"),
    ],
    ids=["missing", "cut", "latin", "nan", "deep"],
)
def test_an_input_that_is_none_is_named(project: Project, content: bytes | None, error: str) -> None:
    project.write(ECHO)
    if content is not None:
        (project.root / INPUT).write_bytes(content)
    run = project.start("topics/resize.py", *FILES)
    assert (run.code, run.output) == (1, None)
    assert run.error.startswith(error)
    assert "Traceback" not in run.stderr


def test_files_are_checked_before_the_handler_works_for_hours(here: Project) -> None:
    here.run("import sjq\nsjq.job(lambda data: print('worked'))")
    gone = here.start("topics/resize.py", "--input", INPUT, "--output", "gone/j1.json")
    assert (gone.code, gone.stdout) == (1, "")
    assert gone.error == "error: the folder of the output gone/j1.json does not exist"
    lost = here.start("topics/resize.py", *FILES, "--attachment", "lost.bin")
    assert (lost.code, lost.stdout) == (1, "")
    assert lost.error == "error: the attachment lost.bin does not exist"


def test_the_output_is_written_where_it_belongs_when_the_handler_changes_the_directory(here: Project) -> None:
    run = here.run("import os, sjq\n@sjq.job\ndef resize(data):\n    os.chdir('/')\n    return 1\n")
    assert run.output == {"data": 1}


def test_nothing_but_the_output_is_left_behind(here: Project) -> None:
    here.run(ECHO)
    assert sorted(path.name for path in here.output_file.parent.iterdir()) == ["j1-input.json", "j1-output.json"]


def test_an_output_that_cannot_be_written_is_an_error_and_leaves_nothing(here: Project) -> None:
    here.output_file.mkdir()
    here.write(ECHO)
    (here.root / INPUT).write_text("1")
    ended = subprocess.run(
        [here.python, "topics/resize.py", *FILES],
        cwd=here.root,
        env={**os.environ, "PYTHONPATH": str(here.library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == f"error: the output {here.output_file} cannot be written: Is a directory\n"
    assert sorted(path.name for path in here.output_file.parent.iterdir()) == ["j1-input.json", "j1-output.json"]


def test_a_traceback_begins_in_the_script(project: Project) -> None:
    run = project.run(
        """
        import sjq

        @sjq.job
        def resize(data):
            try:
                inner(data)
            except KeyError as error:
                raise ValueError("bad image") from error

        def inner(data):
            data["w"]
        """,
        {},
    )
    files = {line.split('"')[1] for line in run.stderr.splitlines() if line.startswith('  File "')}
    assert files == {str(project.root / "topics" / "resize.py")} or files == {"topics/resize.py"}
    assert "Loaded" not in run.stderr
    assert (run.code, run.error, run.output) == (1, "ValueError: bad image", None)


@pytest.mark.parametrize(("argument", "code"), [("0", 0), ("3", 3), ("'no model'", 1), ("None", 0)])
def test_the_exit_code_of_the_handler_is_its_own_and_there_is_no_output(
    project: Project, argument: str, code: int
) -> None:
    run = project.run(f"import sjq, sys\nsjq.job(lambda data: sys.exit({argument}))")
    assert (run.code, run.output) == (code, None)


def test_an_interrupt_is_130(project: Project) -> None:
    run = project.run("import sjq, signal\nsjq.job(lambda data: signal.raise_signal(signal.SIGINT))")
    assert (run.code, run.error, run.output) == (130, "KeyboardInterrupt", None)


def test_a_signal_that_kills_is_what_the_parent_sees(here: Project) -> None:
    run = here.run("import sjq, signal\nsjq.job(lambda data: signal.raise_signal(signal.SIGTERM))")
    assert run.code == -signal.SIGTERM


def test_an_old_output_stays_when_the_job_is_repeated_and_fails(here: Project) -> None:
    here.run(ECHO, 1)
    assert here.run("import sjq\nsjq.job(lambda data: 1 / 0)").output == {"data": [1, None]}


def test_text_is_utf_8_whatever_the_locale_says(project: Project) -> None:
    project.environment.update(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    run = project.run(ECHO, "grün 🌱")
    assert run.output == {"data": ["grün 🌱", None]}
    assert "grün 🌱" in project.output_file.read_text("utf-8")


def test_half_a_surrogate_pair_survives(project: Project) -> None:
    assert project.run(ECHO, "\ud83c").output == {"data": ["\ud83c", None]}
    assert json.loads(project.output_file.read_bytes())["data"][0] == "\ud83c"
