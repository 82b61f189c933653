"""When the handler runs: by itself after the whole script, when called, and when not at all."""

from __future__ import annotations

import pytest

from .project import FILES, OUTPUT, Project


def test_it_runs_after_the_whole_script_wherever_the_decorator_stands(project: Project) -> None:
    run = project.run(
        """
        import sjq

        @sjq.job
        def resize(data):
            print("handler")
            return half(data["w"])

        def half(w):
            return w // 2

        try:
            1 / 0
        except ZeroDivisionError:
            import http.client
        print("loaded")
        """,
        {"w": 64},
    )
    assert run.lines == ["loaded", "handler"]
    assert (run.code, run.stderr, run.output) == (0, "", {"data": 32})


def test_threads_and_children_can_be_started_in_it(project: Project) -> None:
    run = project.run(
        """
        import multiprocessing
        import subprocess
        import sys
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

        import sjq

        @sjq.job
        def resize(data):
            with ThreadPoolExecutor() as threads:
                found = [list(threads.map(double, data))]
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    found.append(pool.map(double, data))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
                found.append(list(processes.map(double, data)))
            child = subprocess.run([sys.executable, "-c", "print(42)"], stdout=subprocess.PIPE, check=True)
            found.append(int(child.stdout))
            return found

        def double(number):
            return 2 * number
        """,
        [1, 2],
    )
    assert (run.code, run.stderr) == (0, "")
    assert run.output == {"data": [[2, 4], [2, 4], [2, 4], [2, 4], 42]}


def test_it_runs_on_the_main_thread_where_signals_are_handled(project: Project) -> None:
    run = project.run(
        """
        import signal
        import threading
        import sjq

        @sjq.job
        def resize(data):
            heard = []
            signal.signal(signal.SIGUSR1, lambda *_: heard.append("signal"))
            signal.raise_signal(signal.SIGUSR1)
            return [threading.current_thread() is threading.main_thread(), heard]
        """
    )
    assert run.output == {"data": [True, ["signal"]]}


@pytest.mark.parametrize(
    "end",
    ["if __name__ == '__main__':\n    main()", "main()", "if __name__ == '__main__':\n    sys.exit(main())"],
    ids=["guarded", "bare", "exit"],
)
def test_a_script_that_calls_its_handler_runs_it_once(project: Project, end: str) -> None:
    run = project.run(
        f"""import sjq, sys
def resize(data):
    print("handler")
    return data
main = sjq.job(resize)
{end}
print("end")
""",
        7,
    )
    assert run.lines == ["handler"] + ([] if "exit" in end else ["end"])
    assert (run.code, run.output) == (0, {"data": 7})


def test_a_handler_that_fails_when_called_ends_the_script(project: Project) -> None:
    run = project.run(
        """
        import sjq

        @sjq.job
        def resize(data):
            raise ValueError("bad image")

        resize()
        print("end")
        """
    )
    assert (run.code, run.lines, run.error) == (1, [], "ValueError: bad image")


def test_a_script_that_exits_does_not_run_its_handler(project: Project) -> None:
    run = project.run(
        """
        import sys, sjq
        sjq.job(lambda data: print("handler"))
        sys.exit(9)
        """
    )
    assert (run.code, run.lines, run.stderr, run.output) == (9, [], "", None)


def test_a_script_that_raises_does_not_run_its_handler(project: Project) -> None:
    run = project.run(
        """
        import sjq
        sjq.job(lambda data: print("handler"))
        raise LookupError("no model")
        """
    )
    assert (run.code, run.lines, run.error) == (1, [], "LookupError: no model")


def test_an_excepthook_of_the_script_sees_what_the_handler_raises_and_nothing_else(project: Project) -> None:
    run = project.run(
        """
        import sys, sjq

        @sjq.job
        def resize(data):
            raise ValueError("bad image")

        sys.excepthook = lambda kind, error, trace: print("hook:", error)
        """
    )
    assert (run.code, run.lines, run.stderr) == (1, ["hook: bad image"], "")


def test_it_runs_as_a_module(project: Project) -> None:
    project.run("import sjq\nsjq.job(lambda data: data)", 5)
    project.output_file.unlink()
    assert project.start("-m", "topics.resize", *FILES).output == {"data": 5}


def test_a_script_that_is_imported_does_not_run(project: Project) -> None:
    project.write(
        """
        import sjq

        @sjq.job
        def resize(data):
            print("handler")
            return data + 1
        """
    )
    project.write("from topics import resize\nprint(resize.resize(41))", "other")
    run = project.start("-c", "import sys; sys.path.insert(0, '.'); import topics.other", *FILES)
    assert (run.code, run.lines, run.stderr) == (0, ["handler", "42"], "")


def test_at_a_prompt_the_handler_waits_to_be_called(here: Project) -> None:
    here.write("import sjq\n@sjq.job\ndef resize(data):\n    return data + 1")
    run = here.start("-i", "topics/resize.py", stdin="print(resize(41))\n")
    assert (run.code, run.lines) == (0, ["42"])


def test_a_job_with_a_prompt_runs_and_then_prompts(here: Project) -> None:
    here.run("import sjq\n@sjq.job\ndef resize(data):\n    return data + 1", 1)
    run = here.start("-i", "topics/resize.py", *FILES, stdin="print(resize(41))\n")
    assert (run.code, run.lines, run.output) == (0, ["42"], {"data": 2})
    assert "Traceback" not in run.stderr


def test_the_end_of_an_exec_is_not_the_end_of_the_script(project: Project) -> None:
    run = project.run("import sjq\nexec('@sjq.job\\ndef resize(data):\\n    return late()')\ndef late(): return 3")
    assert (run.code, run.output) == (0, {"data": 3})


def test_two_handlers_in_a_script_are_an_error_that_names_both(project: Project) -> None:
    run = project.run(
        """
        import sjq

        @sjq.job
        def resize(data):
            print("handler")

        @sjq.job
        def upload(data):
            print("handler")
        """
    )
    assert (run.code, run.lines) == (1, [])
    assert "two, resize() and upload()" in run.error


def test_a_decorated_function_may_be_decorated_again(here: Project) -> None:
    run = here.run("import sjq\n@sjq.job\ndef resize(data):\n    return 1\nmain = sjq.job(resize)\n")
    assert (run.code, run.output) == (0, {"data": 1})


def test_it_still_runs_when_others_hold_all_of_the_monitoring_tools(project: Project) -> None:
    run = project.run(
        """
        import sys, sjq
        if hasattr(sys, "monitoring"):
            for number in range(6):
                sys.monitoring.use_tool_id(number, "other")

        @sjq.job
        def resize(data):
            return late()

        def late():
            return "ran"
        """
    )
    assert (run.code, run.stderr, run.output) == (0, "", {"data": "ran"})


def test_the_output_of_a_script_of_a_worker_can_be_followed_line_by_line(here: Project) -> None:
    here.environment["SJQ_JOB_ID"] = "j1"
    run = here.run("import sjq, sys\nsjq.job(lambda data: sys.stdout.line_buffering)")
    assert run.output == {"data": True}


@pytest.mark.parametrize("stdout", ["None", "open('/dev/null', 'w')", "object()"])
def test_a_script_may_have_no_usual_stdout(here: Project, stdout: str) -> None:
    here.environment["SJQ_JOB_ID"] = "j1"
    run = here.run(f"import sjq, sys\nsys.stdout = {stdout}\nsjq.job(lambda data: 1)\nsys.stdout = sys.__stdout__")
    assert (run.code, run.output) == (0, {"data": 1})


def test_a_closed_stdout_is_no_error_of_the_decorator(here: Project) -> None:
    here.environment["SJQ_JOB_ID"] = "j1"
    run = here.run("import sjq, sys\nsys.stdout.close()\nsjq.job(lambda data: 1)")
    assert run.output == {"data": 1}, OUTPUT


SHARED = """
import sjq

def decorated(function):
    return sjq.job(function)
"""


def test_a_module_may_decorate_for_the_script(here: Project) -> None:
    here.write(SHARED, name="_shared")
    run = here.run("import _shared\n_shared.decorated(lambda data: data + 1)", 1)
    assert (run.code, run.stderr, run.output) == (0, "", {"data": 2})


def test_a_runner_of_tests_is_no_script_of_the_handlers_that_they_decorate(here: Project) -> None:
    here.write(SHARED, name="_shared")
    here.write("import _shared\nfor number in range(2):\n    _shared.decorated(lambda data: data)", name="runner")
    run = here.start("topics/runner.py", "-q", "--output", "report.xml")
    assert (run.code, run.stdout, run.stderr) == (0, "", "")
