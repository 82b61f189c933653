"""Debuggers, tracers and other programs that run a script inside of themselves."""

from __future__ import annotations

import pytest

from .project import FILES, Project

SCRIPT = """
import sjq

@sjq.job
def resize(data):
    width = 41
    breakpoint()
    width += 1
    return width
"""


def test_breakpoint_works_in_a_handler(project: Project) -> None:
    project.run(SCRIPT)
    run = project.start("topics/resize.py", *FILES, stdin="p width * 100\nn\nn\nc\n")
    assert "(Pdb) 4100" in run.stdout
    assert "width += 1" in run.stdout
    assert (run.code, run.output) == (0, {"data": 42})


def test_quitting_the_debugger_fails_the_job(project: Project) -> None:
    project.run(SCRIPT)
    run = project.start("topics/resize.py", *FILES, stdin="q\n")
    assert (run.code, run.output) == (1, None)
    assert run.error.startswith("bdb.BdbQuit")


def test_a_debugger_started_in_the_script_itself_is_either_no_obstacle_or_named(project: Project) -> None:
    project.run("import sjq\n@sjq.job\ndef resize(data):\n    return 1\nbreakpoint()\nx = 1\n")
    run = project.start("topics/resize.py", *FILES, stdin="c\n")
    assert run.output == {"data": 1} or "end the script with resize()" in run.stderr


def test_under_pdb_it_is_said_how_the_handler_starts(project: Project) -> None:
    path = project.write("import sys, sjq\n\n@sjq.job\ndef resize(data):\n    return 1\n")
    # Not `-m pdb`: some releases of 3.13 take the script's arguments for their own.
    runner = f"import pdb, sys; sys.argv = {[str(path), *FILES]}; pdb.Pdb().run(open({str(path)!r}).read())"
    run = project.start("-c", runner, stdin="c\n")
    assert (run.code, run.output) == (0, None)
    assert "under a debugger the handler does not start by itself: end the script with resize()" in run.stderr


def test_under_pdb_a_script_that_calls_its_handler_runs_it(project: Project) -> None:
    path = project.write("import sjq\n\n@sjq.job\ndef resize(data):\n    return 1\n\nresize()\n")
    (project.root / "job_data" / "j1-input.json").write_text("1")
    runner = f"import pdb, sys; sys.argv = {[str(path), *FILES]}; pdb.Pdb().run(open({str(path)!r}).read())"
    run = project.start("-c", runner, stdin="c\n")
    assert (run.code, run.output) == (0, {"data": 1})


@pytest.mark.parametrize("kind", ["function", "object"])
def test_a_tracer_goes_on_tracing_and_sees_the_handler(project: Project, kind: str) -> None:
    # An object stands for tracers written in C: they see frames that have no trace function of their own,
    # and put themselves back at every call.
    put_back = "sys.settrace(self)" if kind == "object" else "pass"
    run = project.run(
        f"""
        import sys

        seen = set()

        class Tracer:
            def __call__(self, frame, event, argument):
                if event == "call":
                    {put_back}
                if event == "line" and frame.f_code.co_filename == __file__:
                    seen.add(frame.f_code.co_name)
                return self

        tracer = Tracer()
        sys.settrace(tracer if {kind == "object"} else lambda *words: tracer(*words))

        import sjq

        @sjq.job
        def resize(data):
            late()
            return sorted(seen)

        def late():
            return 1

        """
    )
    assert run.code == 0, run.stderr
    assert run.output["data"] == [*(["<module>"] if kind == "object" else []), "late", "resize"]


def test_a_runner_that_hands_exceptions_to_the_excepthook_runs_the_handler(project: Project) -> None:
    # This is what `coverage run` does.
    project.run("import sjq\n\n@sjq.job\ndef resize(data):\n    return 1 // data\n", 0)
    (project.root / "runner.py").write_text(
        "import sys, types\n"
        "sys.argv = sys.argv[1:]\n"
        "main = types.ModuleType('__main__')\n"
        "main.__file__ = sys.argv[0]\n"
        "sys.modules['__main__'] = main\n"
        "code = compile(open(sys.argv[0]).read(), sys.argv[0], 'exec')\n"
        "try:\n"
        "    exec(code, main.__dict__)\n"
        "except Exception:\n"
        "    sys.excepthook(*sys.exc_info())\n"
    )
    run = project.start("runner.py", "topics/resize.py", *FILES)
    assert run.code == 1
    assert run.error.startswith("ZeroDivisionError")
    assert "During handling" not in run.stderr


def test_a_runner_that_catches_is_told_what_to_do(project: Project) -> None:
    project.run("import sjq\n\n@sjq.job\ndef resize(data):\n    return 1\n")
    project.output_file.unlink()
    catching = (
        "import runpy\n"
        "try:\n"
        "    runpy.run_path('topics/resize.py', run_name='__main__')\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    run = project.start("-c", catching, *FILES)
    assert run.lines[0].endswith("end the script with resize()")
    assert run.output is None
